package bypassctl.testapp;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.util.concurrent.CompletableFuture;
import org.apache.pekko.Done;
import org.apache.pekko.actor.ActorRef;
import org.apache.pekko.actor.ActorSystem;
import org.apache.pekko.actor.CoordinatedShutdown;
import org.apache.pekko.actor.PoisonPill;
import org.apache.pekko.actor.Props;
import org.apache.pekko.cluster.Cluster;
import org.apache.pekko.cluster.sharding.ClusterSharding;
import org.apache.pekko.cluster.sharding.ClusterShardingSettings;
import org.apache.pekko.cluster.singleton.ClusterSingletonManager;
import org.apache.pekko.cluster.singleton.ClusterSingletonManagerSettings;
import org.apache.pekko.management.cluster.bootstrap.ClusterBootstrap;
import org.apache.pekko.management.javadsl.PekkoManagement;

/**
 * One node of the test cluster: membership, management, a singleton, sharding, and pings to every peer.
 *
 * <p>What happens is printed as lines that begin with {@code EV} (see {@link EventLog}); the test runner reads them.
 * This file is Pekko; the Akka variant is made from it by the build (see {@code tests/cluster/app/build}).
 */
public final class ClusterNode {
  private ClusterNode() {}

  public static void main(String[] args) {
    Config config = ConfigFactory.load();
    ActorSystem system = ActorSystem.create("appka", config);
    Cluster cluster = Cluster.get(system);
    EventLog.event("START self=" + cluster.selfAddress() + " uid=" + cluster.selfUniqueAddress().longUid());

    system.actorOf(Props.create(ClusterEvents.class, ClusterEvents::new), "events");
    system.actorOf(Props.create(PeerPings.class, PeerPings::new), "pings");
    PekkoManagement.get(system).start();
    if (config.getBoolean("app.bootstrap")) {
      ClusterBootstrap.get(system).start();
    }
    cluster.registerOnMemberUp(() -> startClusterTools(system));

    logShutdownPhase(system, CoordinatedShutdown.PhaseBeforeServiceUnbind());
    logShutdownPhase(system, CoordinatedShutdown.PhaseClusterExiting());
    logShutdownPhase(system, CoordinatedShutdown.PhaseClusterShutdown());
    logShutdownPhase(system, CoordinatedShutdown.PhaseActorSystemTerminate());
    system.getWhenTerminated().thenRun(() -> EventLog.event("TERMINATED"));
  }

  private static void startClusterTools(ActorSystem system) {
    system.actorOf(
        ClusterSingletonManager.props(
            Props.create(Singleton.class, Singleton::new),
            PoisonPill.getInstance(),
            ClusterSingletonManagerSettings.create(system)),
        "singleton");
    ActorRef counters =
        ClusterSharding.get(system)
            .start(
                "counter",
                Props.create(Sharding.Counter.class, Sharding.Counter::new),
                ClusterShardingSettings.create(system),
                new Sharding.ById());
    system.actorOf(Props.create(Sharding.Client.class, () -> new Sharding.Client(counters)), "shard-client");
  }

  private static void logShutdownPhase(ActorSystem system, String phase) {
    CoordinatedShutdown.get(system)
        .addTask(
            phase,
            "log-" + phase,
            () -> {
              EventLog.event("SHUTDOWN " + phase);
              return CompletableFuture.completedFuture(Done.getInstance());
            });
  }
}
