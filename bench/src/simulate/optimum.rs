//! The fewest loads there could be: the page that goes is the one not needed for longest (Belády, "A
//! study of replacement algorithms for a virtual-storage computer", 1966). It takes knowing the future.

use std::collections::{BTreeSet, HashMap};

use bifolio_pager::PageId;
use bifolio_pager_bufpool::Tally;
use bifolio_pager_bufpool::trace::{Access, Event};

/// What the optimum counts in a pool of `frames` frames. Reading ahead is left out: it brings in what
/// is read later.
pub fn replay(events: &[Event], frames: usize) -> Tally {
    let next = next_uses(events);
    let mut tally = Tally::default();
    // Pages in memory, by when they are needed next.
    let mut held: HashMap<PageId, usize> = HashMap::new();
    let mut by_need: BTreeSet<(usize, PageId)> = BTreeSet::new();
    for (event, &needed) in events.iter().zip(&next) {
        let was_held = match event.access {
            Access::Ahead => continue,
            _ => held.remove(&event.page),
        };
        if let Some(was_needed) = was_held {
            by_need.remove(&(was_needed, event.page));
        }
        if event.access == Access::Discard {
            continue;
        }
        if event.access == Access::Read {
            tally.reads += 1;
            tally.loads += u64::from(was_held.is_none());
        }
        if held.len() == frames
            && let Some((_, gone)) = by_need.pop_last()
        {
            held.remove(&gone);
        }
        held.insert(event.page, needed);
        by_need.insert((needed, event.page));
    }
    tally
}

/// For each event, when its page is read next in the same life; `usize::MAX` for never.
fn next_uses(events: &[Event]) -> Vec<usize> {
    let mut coming: HashMap<PageId, usize> = HashMap::new();
    let mut next = vec![usize::MAX; events.len()];
    for (index, event) in events.iter().enumerate().rev() {
        next[index] = coming.get(&event.page).copied().unwrap_or(usize::MAX);
        match event.access {
            Access::Read => drop(coming.insert(event.page, index)),
            Access::Create | Access::Discard => drop(coming.remove(&event.page)),
            Access::Ahead => {}
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(pages: &[u64]) -> Vec<Event> {
        pages
            .iter()
            .map(|&page| Event::read(PageId::new(page)))
            .collect()
    }

    /// The fewest loads, found by trying every choice.
    fn tried(pages: &[u64], held: &mut Vec<u64>, frames: usize) -> u64 {
        let Some((&page, rest)) = pages.split_first() else {
            return 0;
        };
        if held.contains(&page) {
            return tried(rest, held, frames);
        }
        if held.len() < frames {
            held.push(page);
            let loads = tried(rest, held, frames);
            held.pop();
            return loads + 1;
        }
        let choices = (0..frames).map(|place| {
            let gone = std::mem::replace(&mut held[place], page);
            let loads = tried(rest, held, frames);
            held[place] = gone;
            loads
        });
        choices.min().expect("there are frames") + 1
    }

    #[test]
    fn no_choice_of_victims_needs_fewer_loads() {
        let mut state = 1_u64;
        for round in 0..60 {
            let mut pages = Vec::new();
            for _ in 0..14 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                pages.push((state >> 33) % 5);
            }
            let frames = 1 + round % 3;
            let expected = tried(&pages, &mut Vec::new(), frames);
            let found = replay(&reads(&pages), frames);
            assert_eq!((found.reads, found.loads), (14, expected), "{pages:?}");
        }
    }

    #[test]
    fn what_ends_its_life_is_needed_no_more_and_what_begins_one_needs_no_load() {
        let event = |access, page| Event {
            access,
            ..Event::read(PageId::new(page))
        };
        let events = [
            event(Access::Create, 1),
            event(Access::Read, 1),
            event(Access::Create, 2),
            event(Access::Discard, 1),
            event(Access::Create, 3),
            event(Access::Read, 2),
            event(Access::Create, 1),
            event(Access::Read, 1),
        ];
        let tally = replay(&events, 2);
        assert_eq!((tally.reads, tally.loads), (3, 0));
    }
}
