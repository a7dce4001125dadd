package bypassctl.testapp;

import java.time.Duration;
import java.util.Map;
import java.util.TreeMap;
import org.apache.pekko.actor.AbstractActorWithTimers;
import org.apache.pekko.cluster.Cluster;
import org.apache.pekko.cluster.Member;
import org.apache.pekko.cluster.MemberStatus;

/**
 * Pings every other member that is Up ten times a second, unreachable ones too, and prints once a second what came
 * back: {@code PING <peer> sent=N got=N lost=N gap_ms=N}. Up to two pings under way count as lost; gap_ms is the
 * longest silence between two answers within the second printed.
 */
public final class PeerPings extends AbstractActorWithTimers {
  private static final Duration INTERVAL = Duration.ofMillis(100);
  private static final Duration REPORT_INTERVAL = Duration.ofSeconds(1);

  private enum Timer {
    PING,
    REPORT
  }

  private static final class Peer {
    long sent;
    long got;
    long lastAnswerNanos = System.nanoTime();
    long longestGapNanos;

    void answered() {
      long now = System.nanoTime();
      longestGapNanos = Math.max(longestGapNanos, now - lastAnswerNanos);
      lastAnswerNanos = now;
      got++;
    }
  }

  private final Cluster cluster = Cluster.get(getContext().getSystem());
  private final Map<String, Peer> peers = new TreeMap<>();

  public PeerPings() {
    getTimers().startTimerAtFixedRate(Timer.PING, Timer.PING, INTERVAL);
    getTimers().startTimerAtFixedRate(Timer.REPORT, Timer.REPORT, REPORT_INTERVAL);
  }

  @Override
  public Receive createReceive() {
    return receiveBuilder()
        .matchEquals(Timer.PING, tick -> pingAll())
        .matchEquals(Timer.REPORT, tick -> report())
        .match(String.class, this::pingOrPong)
        .build();
  }

  private void pingAll() {
    for (Member member : cluster.state().getMembers()) {
      boolean self = member.address().equals(cluster.selfAddress());
      if (self || !member.status().equals(MemberStatus.up())) {
        continue;
      }
      String address = member.address().toString();
      peers.computeIfAbsent(address, unused -> new Peer()).sent++;
      getContext().actorSelection(address + "/user/pings").tell("ping|" + address, getSelf());
    }
  }

  private void pingOrPong(String message) {
    String[] parts = message.split("\\|");
    if (parts[0].equals("ping")) {
      getSender().tell("pong|" + parts[1], getSelf());
      return;
    }
    Peer peer = peers.get(parts[1]);
    if (peer != null) {
      peer.answered();
    }
  }

  private void report() {
    peers.forEach(
        (address, peer) -> {
          long lost = peer.sent - peer.got;
          long gapMillis = peer.longestGapNanos / 1_000_000;
          peer.longestGapNanos = 0;
          EventLog.event(
              "PING " + address + " sent=" + peer.sent + " got=" + peer.got + " lost=" + lost + " gap_ms=" + gapMillis);
        });
  }
}
