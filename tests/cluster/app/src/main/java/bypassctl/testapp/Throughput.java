package bypassctl.testapp;

import com.sun.management.OperatingSystemMXBean;
import com.typesafe.config.ConfigFactory;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Arrays;
import java.util.Locale;
import java.util.Random;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.pekko.actor.AbstractActor;
import org.apache.pekko.actor.ActorRef;
import org.apache.pekko.actor.ActorSystem;
import org.apache.pekko.actor.Props;

/**
 * Two nodes without a cluster, for the benchmark: one acknowledges, the other sends as fast as it is acknowledged, then
 * measures round trips one at a time. {@code Throughput receive}, or {@code Throughput send HOST:PORT MESSAGES SIZE ROUNDS}.
 * Prints {@code RESULT messages_per_s=N cpu_us=N} a round, CPU of both JVMs a message, and {@code RESULT rtt_us=N}.
 */
public final class Throughput {
  /** Messages under way without an acknowledgement. */
  private static final int WINDOW = 20_000;

  /** Messages between two acknowledgements. */
  private static final int BATCH = 1_000;

  private static final int ROUND_TRIPS = 5_000;

  private static final String CPU = "cpu";
  private static final String RESET = "reset";

  private Throughput() {}

  /** Acknowledges every thousandth payload, answers everything else at once. */
  public static final class Receiver extends AbstractActor {
    private long received;

    @Override
    public Receive createReceive() {
      return receiveBuilder()
          .match(byte[].class, payload -> count())
          .matchEquals(RESET, reset -> received = 0)
          .matchEquals(CPU, cpu -> getSender().tell(cpuSeconds(), getSelf()))
          .matchAny(ping -> getSender().tell(ping, getSelf()))
          .build();
    }

    private void count() {
      if (++received % BATCH == 0) {
        getSender().tell(received, getSelf());
      }
    }
  }

  /** Hands what comes to the main thread. */
  public static final class Mailbox extends AbstractActor {
    private final BlockingQueue<Object> queue;

    public Mailbox(BlockingQueue<Object> queue) {
      this.queue = queue;
    }

    @Override
    public Receive createReceive() {
      return receiveBuilder().matchAny(queue::add).build();
    }
  }

  private static double cpuSeconds() {
    OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime() / 1e9;
  }

  private static Object next(BlockingQueue<Object> queue) throws InterruptedException {
    Object answer = queue.poll(30, TimeUnit.SECONDS);
    if (answer == null) {
      throw new IllegalStateException("no answer within 30 s");
    }
    return answer;
  }

  public static void main(String[] arguments) throws Exception {
    ActorSystem system = ActorSystem.create("bench", ConfigFactory.load("throughput"));
    if (arguments[0].equals("receive")) {
      system.actorOf(Props.create(Receiver.class, Receiver::new), "receiver");
      System.out.println("READY");
      return;
    }
    BlockingQueue<Object> queue = new LinkedBlockingQueue<>();
    ActorRef self = system.actorOf(Props.create(Mailbox.class, () -> new Mailbox(queue)), "mailbox");
    ActorRef receiver =
        system
            .actorSelection("pekko://bench@" + arguments[1] + "/user/receiver")
            .resolveOne(Duration.ofSeconds(15))
            .toCompletableFuture()
            .get();
    int messages = Integer.parseInt(arguments[2]) / BATCH * BATCH;
    byte[] payload = new byte[Integer.parseInt(arguments[3])];
    new Random(1).nextBytes(payload);
    for (int round = Integer.parseInt(arguments[4]); round > 0; round--) {
      send(receiver, self, queue, payload, messages);
    }
    roundTrips(receiver, self, queue);
    system.terminate();
  }

  private static void send(
      ActorRef receiver, ActorRef self, BlockingQueue<Object> queue, byte[] payload, int messages) throws Exception {
    receiver.tell(RESET, self);
    receiver.tell(CPU, self);
    double cpu = cpuSeconds() + (Double) next(queue);
    long begun = System.nanoTime();
    long sent = 0;
    long acknowledged = 0;
    while (acknowledged < messages) {
      while (sent < messages && sent - acknowledged < WINDOW) {
        receiver.tell(payload, self);
        sent++;
      }
      acknowledged = (Long) next(queue);
    }
    double seconds = (System.nanoTime() - begun) / 1e9;
    receiver.tell(CPU, self);
    cpu = cpuSeconds() + (Double) next(queue) - cpu;
    System.out.printf(
        Locale.ROOT, "RESULT messages_per_s=%.0f cpu_us=%.2f%n", messages / seconds, cpu * 1e6 / messages);
  }

  private static void roundTrips(ActorRef receiver, ActorRef self, BlockingQueue<Object> queue) throws Exception {
    long[] took = new long[ROUND_TRIPS];
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < ROUND_TRIPS; i++) {
        long begun = System.nanoTime();
        receiver.tell("ping", self);
        next(queue);
        took[i] = System.nanoTime() - begun;
      }
    }
    // The first half warmed up.
    Arrays.sort(took);
    System.out.printf(
        Locale.ROOT, "RESULT rtt_us=%.1f rtt_p99_us=%.1f%n", took[ROUND_TRIPS / 2] / 1e3, took[ROUND_TRIPS * 99 / 100] / 1e3);
  }
}
