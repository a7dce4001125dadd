package bypassctl.testapp;

import java.time.Instant;

/** Lines for the test runner: {@code EV <time, UTC> <KIND> <details>}. */
final class EventLog {
  private EventLog() {}

  static void event(String text) {
    System.out.println("EV " + Instant.now() + " " + text);
    System.out.flush();
  }
}
