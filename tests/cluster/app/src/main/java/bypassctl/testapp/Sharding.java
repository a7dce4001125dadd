package bypassctl.testapp;

import java.time.Duration;
import org.apache.pekko.actor.AbstractActor;
import org.apache.pekko.actor.AbstractActorWithTimers;
import org.apache.pekko.actor.ActorRef;
import org.apache.pekko.cluster.sharding.ShardRegion;

/** Forty sharded counters, and on every node a client that asks them ten times a second. */
final class Sharding {
  private static final int SHARDS = 30;
  private static final int COUNTERS = 40;

  private Sharding() {}

  /** A message {@code <id>|inc} goes to counter {@code <id>}. */
  static final class ById extends ShardRegion.HashCodeMessageExtractor {
    ById() {
      super(SHARDS);
    }

    @Override
    public String entityId(Object message) {
      return message instanceof String ? ((String) message).split("\\|")[0] : null;
    }
  }

  /** Counts, and answers with the count. */
  public static final class Counter extends AbstractActor {
    private int count = 0;

    @Override
    public Receive createReceive() {
      return receiveBuilder().match(String.class, message -> getSender().tell(++count, getSelf())).build();
    }
  }

  /** Prints every two seconds {@code SHARD sent=N replies=N remote=N}: how many answers came from other nodes. */
  public static final class Client extends AbstractActorWithTimers {
    private static final Duration INTERVAL = Duration.ofMillis(100);
    private static final Duration REPORT_INTERVAL = Duration.ofSeconds(2);

    private enum Timer {
      ASK,
      REPORT
    }

    private final ActorRef counters;
    private long sent = 0;
    private long replies = 0;
    private long remoteReplies = 0;

    Client(ActorRef counters) {
      this.counters = counters;
      getTimers().startTimerAtFixedRate(Timer.ASK, Timer.ASK, INTERVAL);
      getTimers().startTimerAtFixedRate(Timer.REPORT, Timer.REPORT, REPORT_INTERVAL);
    }

    @Override
    public Receive createReceive() {
      return receiveBuilder()
          .matchEquals(Timer.ASK, tick -> ask())
          .matchEquals(Timer.REPORT, tick -> report())
          .match(Integer.class, count -> reply())
          .build();
    }

    private void ask() {
      counters.tell("counter-" + (sent++ % COUNTERS) + "|inc", getSelf());
    }

    private void reply() {
      replies++;
      if (getSender().path().address().hasGlobalScope()) {
        remoteReplies++;
      }
    }

    private void report() {
      EventLog.event("SHARD sent=" + sent + " replies=" + replies + " remote=" + remoteReplies);
    }
  }
}
