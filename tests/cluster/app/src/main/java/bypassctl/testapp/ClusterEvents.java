package bypassctl.testapp;

import org.apache.pekko.actor.AbstractActor;
import org.apache.pekko.cluster.Cluster;
import org.apache.pekko.cluster.ClusterEvent;

/** Prints every change of membership, reachability and leadership, and every quarantine. */
public final class ClusterEvents extends AbstractActor {
  /** By name, because the two frameworks keep these classes in different places, and not all in each. */
  private static final String[] QUARANTINE_EVENTS = {
    "org.apache.pekko.remote.QuarantinedEvent",
    "org.apache.pekko.remote.GracefulShutdownQuarantinedEvent",
    "org.apache.pekko.remote.artery.ThisActorSystemQuarantinedEvent",
    "org.apache.pekko.remote.ThisActorSystemQuarantinedEvent",
  };

  @Override
  public void preStart() {
    Cluster.get(getContext().getSystem())
        .subscribe(
            getSelf(),
            ClusterEvent.initialStateAsEvents(),
            ClusterEvent.MemberEvent.class,
            ClusterEvent.ReachabilityEvent.class,
            ClusterEvent.LeaderChanged.class);
    for (String name : QUARANTINE_EVENTS) {
      try {
        getContext().getSystem().getEventStream().subscribe(getSelf(), Class.forName(name));
      } catch (ClassNotFoundException absentInThisFramework) {
        continue;
      }
    }
  }

  @Override
  public Receive createReceive() {
    return receiveBuilder().matchAny(event -> EventLog.event("CLUSTER " + event)).build();
  }
}
