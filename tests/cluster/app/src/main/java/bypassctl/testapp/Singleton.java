package bypassctl.testapp;

import org.apache.pekko.actor.AbstractActor;

/** Exists once in a cluster that is whole, and twice in one that is split. */
public final class Singleton extends AbstractActor {
  @Override
  public void preStart() {
    EventLog.event("SINGLETON started");
  }

  @Override
  public void postStop() {
    EventLog.event("SINGLETON stopped");
  }

  @Override
  public Receive createReceive() {
    return receiveBuilder().build();
  }
}
