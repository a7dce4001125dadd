//! Who has one of a few places: no source more than its share, and once all are taken the greediest gives way.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The part of all places that one source may have.
const SHARE: usize = 8;
/// Who has no more than this gives way to nobody: a node of Akka or Pekko opens two or three connections to each other.
const MODEST: usize = 3;
/// Who has had a place for so long does not get on: what a place is for takes milliseconds.
const STALE: Duration = Duration::from_secs(1);

/// Places, each held with something of the holder's: `T` tells it that it has to leave.
#[derive(Debug)]
pub(crate) struct Places<T> {
    /// By source, oldest first; a source without any is not kept.
    by_source: HashMap<IpAddr, VecDeque<Held<T>>>,
    taken: usize,
    most: usize,
    share: usize,
    spares_loopback: bool,
    entered: u64,
}

#[derive(Debug)]
struct Held<T> {
    number: u64,
    since: Instant,
    holder: T,
}

/// Who holds a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    source: IpAddr,
    number: u64,
}

/// What comes of asking for a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted<T> {
    /// There was one.
    Free(Ticket),
    /// Its last holder is to be told.
    InsteadOf(T, Ticket),
    /// The source has its share, or as much as anybody while all are taken.
    Refused,
    /// All are taken, and nobody has more than is fair.
    Full(T),
}

impl<T> Places<T> {
    /// Loopback, which is this pod itself, has no share to keep to, and never gives way.
    pub(crate) fn new(most: usize) -> Self {
        Self { spares_loopback: true, ..Self::strict(most, most.div_ceil(SHARE).max(MODEST)) }
    }

    /// At most `share` a source, whatever it is.
    pub(crate) fn strict(most: usize, share: usize) -> Self {
        Self { by_source: HashMap::new(), taken: 0, most, share, spares_loopback: false, entered: 0 }
    }

    /// Asks for a place.
    pub(crate) fn enter(&mut self, source: IpAddr, holder: T, now: Instant) -> Admitted<T> {
        let source = source.to_canonical();
        let held = if self.spares(source) { 0 } else { self.held_by(source) };
        let from = if held < self.share && self.taken < self.most {
            return Admitted::Free(self.take(source, holder, now));
        } else if held >= self.share {
            source
        } else {
            match self.greediest() {
                None => return Admitted::Full(holder),
                // It would only take from its like.
                Some((most, _)) if held + 1 >= most => source,
                Some((_, greediest)) => greediest,
            }
        };
        // Nobody makes room among their own but for one that does not get on.
        match self.evict(from, now, from == source) {
            Some(evicted) => Admitted::InsteadOf(evicted, self.take(source, holder, now)),
            None => Admitted::Refused,
        }
    }

    /// Takes a place from whoever has most and more than is fair, else from whoever does not get on, for want of something else
    /// than places.
    pub(crate) fn relieve(&mut self, now: Instant) -> Option<T> {
        if let Some((_, greediest)) = self.greediest() {
            return self.evict(greediest, now, false);
        }
        let strangers = self.by_source.iter().filter(|(source, _)| !source.is_loopback());
        let (_, slowest) = strangers.filter_map(|(source, held)| Some((held.front()?.since, *source))).min()?;
        self.evict(slowest, now, true)
    }

    /// Gives a place back; one that has been given to somebody else stays theirs.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let Some(held) = self.by_source.get_mut(&ticket.source) else { return };
        let before = held.len();
        held.retain(|held| held.number != ticket.number);
        self.taken -= before - held.len();
        if held.is_empty() {
            self.by_source.remove(&ticket.source);
        }
    }

    /// That a holder gets on: it is the youngest of its source again.
    pub(crate) fn renew(&mut self, ticket: Ticket, now: Instant) {
        let Some(held) = self.by_source.get_mut(&ticket.source) else { return };
        if let Some(at) = held.iter().position(|held| held.number == ticket.number)
            && let Some(holder) = held.remove(at)
        {
            held.push_back(Held { since: now, ..holder });
        }
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether the holder's source has more places than a node needs.
    pub(crate) fn is_greedy(&self, ticket: Ticket) -> bool {
        !self.spares(ticket.source) && self.held_by(ticket.source) > MODEST
    }

    fn spares(&self, source: IpAddr) -> bool {
        self.spares_loopback && source.is_loopback()
    }

    fn held_by(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).map_or(0, VecDeque::len)
    }

    /// Who has most, and how many, if that is more than anybody needs.
    fn greediest(&self) -> Option<(usize, IpAddr)> {
        let strangers = self.by_source.iter().filter(|(source, _)| !self.spares(**source));
        strangers.map(|(source, held)| (held.len(), *source)).max().filter(|(most, _)| *most > MODEST)
    }

    /// The source's oldest gives way if it is stale, else its newest, unless only a stale one may: one that gets on is soon
    /// done.
    fn evict(&mut self, source: IpAddr, now: Instant, only_stale: bool) -> Option<T> {
        let held = self.by_source.get_mut(&source)?;
        let is_stale = held.front().is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= STALE);
        let evicted = match (is_stale, only_stale) {
            (true, _) => held.pop_front(),
            (false, false) => held.pop_back(),
            (false, true) => None,
        }?;
        self.taken -= 1;
        Some(evicted.holder)
    }

    fn take(&mut self, source: IpAddr, holder: T, now: Instant) -> Ticket {
        self.entered += 1;
        self.taken += 1;
        self.by_source.entry(source).or_default().push_back(Held { number: self.entered, since: now, holder });
        Ticket { source, number: self.entered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Places that sources 1 to `sources` hold this many of each, named by their number among the source's.
    fn crowd(most: usize, sources: u8, each: u8, now: Instant) -> (Places<(u8, u8)>, Vec<Ticket>) {
        let mut places = Places::new(most);
        let mut tickets = Vec::new();
        for source in 1..=sources {
            for nth in 1..=each {
                let Admitted::Free(ticket) = places.enter(address(source), (source, nth), now) else {
                    panic!("no room")
                };
                tickets.push(ticket);
            }
        }
        (places, tickets)
    }

    #[test]
    fn one_source_has_no_more_than_its_share_and_makes_room_of_what_does_not_get_on() {
        let now = Instant::now();
        let (mut places, tickets) = crowd(64, 1, 8, now);
        assert_eq!(places.enter(address(1), (1, 9), now), Admitted::Refused);
        assert!(matches!(places.enter(address(2), (2, 1), now), Admitted::Free(_)));
        places.leave(tickets[3]);
        assert!(matches!(places.enter(address(1), (1, 9), now), Admitted::Free(_)));
        assert!(matches!(places.enter(address(1), (1, 10), now + STALE), Admitted::InsteadOf((1, 1), _)));
        assert_eq!(places.taken(), 9);
    }

    #[test]
    fn few_places_are_enough_for_a_node() {
        let now = Instant::now();
        for most in 3..24 {
            crowd(most, 1, 3, now);
        }
    }

    #[test]
    fn the_greediest_gives_way_with_what_does_not_get_on_or_with_its_newest() {
        let now = Instant::now();
        let (mut places, tickets) = crowd(64, 9, 7, now);
        assert!(matches!(places.enter(address(5), (5, 8), now), Admitted::Free(_)), "the last place");
        let Admitted::InsteadOf((5, 8), ticket) = places.enter(address(100), (100, 1), now) else { panic!("not 5") };
        assert_eq!(places.taken(), 64);
        let later = places.enter(address(101), (101, 1), now + STALE);
        assert!(matches!(later, Admitted::InsteadOf((9, 1), _)), "{later:?}");
        places.leave(tickets[8 * 7]);
        assert_eq!(places.taken(), 64, "it had no place to give back");
        places.leave(ticket);
        assert_eq!(places.taken(), 63);
    }

    #[test]
    fn the_greedy_take_nothing_from_each_other_nor_from_the_modest() {
        let now = Instant::now();
        let (mut places, tickets) = crowd(64, 16, 4, now);
        assert!(places.is_greedy(tickets[0]));
        assert_eq!(places.enter(address(3), (3, 5), now), Admitted::Refused);
        for source in 100..103 {
            let entered = places.enter(address(source), (source, 1), now + STALE);
            assert!(matches!(entered, Admitted::InsteadOf((1..=16, 1), _)), "{entered:?}");
        }
    }

    #[test]
    fn peers_that_all_begin_at_once_wait_for_each_other() {
        let now = Instant::now();
        let (mut places, tickets) = crowd(63, 21, 3, now);
        assert_eq!(places.enter(address(100), (100, 1), now + STALE), Admitted::Full((100, 1)));
        assert_eq!(places.relieve(now), None);
        assert!(!places.is_greedy(tickets[0]));
        places.leave(tickets[0]);
        assert!(matches!(places.enter(address(100), (100, 1), now), Admitted::Free(_)));
    }

    #[test]
    fn this_pod_itself_has_no_share_and_never_gives_way() {
        let (own, now) = (IpAddr::from([127, 0, 0, 1]), Instant::now());
        let mut places = Places::new(8);
        for _ in 0..8 {
            assert!(matches!(places.enter(own, (0, 0), now), Admitted::Free(_)));
        }
        assert_eq!(places.enter(own, (0, 0), now + STALE), Admitted::Full((0, 0)));
        assert_eq!(places.enter(address(1), (1, 1), now + STALE), Admitted::Full((1, 1)));
    }

    #[test]
    fn whoever_is_still_of_use_gives_way_last() {
        let (own, now) = (IpAddr::from([127, 0, 0, 1]), Instant::now());
        let mut places = Places::strict(8, 8);
        let tickets: Vec<Ticket> = (0..8)
            .map(|nth| match places.enter(own, (0, nth), now) {
                Admitted::Free(ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        let later = now + STALE;
        places.renew(tickets[0], later);
        let first = places.enter(address(1), (1, 1), later);
        assert!(matches!(first, Admitted::InsteadOf((0, 1), _)), "loopback is not spared: {first:?}");
        assert!(matches!(places.enter(address(1), (1, 2), later), Admitted::InsteadOf((0, 2), _)));
        places.renew(tickets[1], later);
        assert_eq!(places.taken(), 8, "who has given way is not there again");
        places.leave(tickets[0]);
        assert_eq!(places.taken(), 7);
    }

    #[test]
    fn sources_that_are_gone_are_not_kept() {
        let (mut places, tickets) = crowd(64, 4, 4, Instant::now());
        for ticket in tickets {
            places.leave(ticket);
        }
        assert!(places.by_source.is_empty() && places.taken() == 0, "{places:?}");
    }

    #[test]
    fn who_gives_way_for_want_of_something_else_is_the_greediest() {
        let now = Instant::now();
        let (mut places, _) = crowd(64, 3, 3, now);
        assert_eq!(places.relieve(now), None);
        places.enter(address(2), (2, 4), now);
        assert_eq!(places.relieve(now), Some((2, 4)));
        assert_eq!(places.relieve(now), None, "all get on");
        assert!(matches!(places.relieve(now + STALE), Some((1..=3, 1))), "none gets on");
    }
}
