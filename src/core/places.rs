//! Who has one of a few places: no source more than its share, and once all are taken the greediest gives way.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// The part of all places that one source may have.
const SHARE: usize = 8;
/// Who has no more than this gives way to nobody: a node of Akka or Pekko opens two or three connections to each other.
const MODEST: usize = 3;

/// Places, each held with something of the holder's: `T` tells it that it has to leave.
#[derive(Debug)]
pub(crate) struct Places<T> {
    /// By source, oldest first; a source without any is not kept.
    by_source: HashMap<IpAddr, VecDeque<(u64, T)>>,
    taken: usize,
    most: usize,
    entered: u64,
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
    /// The source has its share, or more than others while all are taken.
    Refused,
    /// All are taken, and nobody has more than is fair.
    Full(T),
}

impl<T> Places<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { by_source: HashMap::new(), taken: 0, most, entered: 0 }
    }

    /// Asks for a place. Loopback, which is this pod itself, has no share to keep to, and never gives way.
    pub(crate) fn enter(&mut self, source: IpAddr, holder: T) -> Admitted<T> {
        let source = source.to_canonical();
        let held = if source.is_loopback() { 0 } else { self.held_by(source) };
        if held >= self.most.div_ceil(SHARE) {
            return Admitted::Refused;
        }
        if self.taken < self.most {
            return Admitted::Free(self.take(source, holder));
        }
        let strangers = self.by_source.iter().filter(|(source, _)| !source.is_loopback());
        let greediest = strangers.map(|(source, held)| (held.len(), *source)).max();
        match greediest.filter(|(most, _)| *most > MODEST) {
            None => Admitted::Full(holder),
            // It would only take from itself, or from its like.
            Some((most, _)) if held + 1 >= most => Admitted::Refused,
            Some((_, greediest)) => match self.by_source.get_mut(&greediest).and_then(VecDeque::pop_front) {
                None => Admitted::Full(holder),
                Some((_, oldest)) => {
                    self.taken -= 1;
                    Admitted::InsteadOf(oldest, self.take(source, holder))
                }
            },
        }
    }

    /// Gives a place back; one that has been given to somebody else stays theirs.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let Some(held) = self.by_source.get_mut(&ticket.source) else { return };
        let before = held.len();
        held.retain(|(number, _)| *number != ticket.number);
        self.taken -= before - held.len();
        if held.is_empty() {
            self.by_source.remove(&ticket.source);
        }
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    fn held_by(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).map_or(0, VecDeque::len)
    }

    fn take(&mut self, source: IpAddr, holder: T) -> Ticket {
        self.entered += 1;
        self.taken += 1;
        self.by_source.entry(source).or_default().push_back((self.entered, holder));
        Ticket { source, number: self.entered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Places that sources 1 to `sources` hold this many of each, named by source.
    fn crowd(most: usize, sources: u8, each: usize) -> (Places<u8>, Vec<Ticket>) {
        let mut places = Places::new(most);
        let mut tickets = Vec::new();
        for source in 1..=sources {
            for _ in 0..each {
                let Admitted::Free(ticket) = places.enter(address(source), source) else { panic!("no room") };
                tickets.push(ticket);
            }
        }
        (places, tickets)
    }

    #[test]
    fn one_source_has_no_more_than_its_share() {
        let (mut places, tickets) = crowd(64, 1, 8);
        assert_eq!(places.enter(address(1), 1), Admitted::Refused);
        assert!(matches!(places.enter(address(2), 2), Admitted::Free(_)));
        places.leave(tickets[3]);
        assert!(matches!(places.enter(address(1), 1), Admitted::Free(_)));
    }

    #[test]
    fn the_greediest_gives_way_with_its_oldest() {
        let (mut places, tickets) = crowd(64, 9, 7);
        assert!(matches!(places.enter(address(5), 55), Admitted::Free(_)), "the last place");
        let Admitted::InsteadOf(5, ticket) = places.enter(address(100), 100) else { panic!("nobody gave way") };
        assert_eq!(places.taken(), 64);
        places.leave(tickets[4 * 7]);
        assert_eq!(places.taken(), 64, "it had no place to give back");
        places.leave(ticket);
        assert_eq!(places.taken(), 63);
    }

    #[test]
    fn the_greedy_take_nothing_from_each_other_nor_from_the_modest() {
        let (mut places, _) = crowd(64, 16, 4);
        assert_eq!(places.enter(address(3), 3), Admitted::Refused);
        let others: Vec<u8> = (100..103)
            .map(|source| match places.enter(address(source), source) {
                Admitted::InsteadOf(loser, _) => loser,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(others.iter().all(|loser| *loser <= 16), "{others:?}");
    }

    #[test]
    fn peers_that_all_begin_at_once_wait_for_each_other() {
        let (mut places, tickets) = crowd(63, 21, 3);
        assert_eq!(places.enter(address(100), 100), Admitted::Full(100));
        places.leave(tickets[0]);
        assert!(matches!(places.enter(address(100), 100), Admitted::Free(_)));
    }

    #[test]
    fn this_pod_itself_has_no_share_and_never_gives_way() {
        let own = IpAddr::from([127, 0, 0, 1]);
        let mut places = Places::new(8);
        for _ in 0..8 {
            assert!(matches!(places.enter(own, 0), Admitted::Free(_)));
        }
        assert_eq!(places.enter(own, 0), Admitted::Full(0));
        assert_eq!(places.enter(address(1), 1), Admitted::Full(1));
    }

    #[test]
    fn sources_that_are_gone_are_not_kept() {
        let (mut places, tickets) = crowd(64, 4, 4);
        for ticket in tickets {
            places.leave(ticket);
        }
        assert!(places.by_source.is_empty() && places.taken() == 0, "{places:?}");
    }
}
