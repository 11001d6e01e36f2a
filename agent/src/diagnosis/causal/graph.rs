//! Who calls whom, by indices of entities.

use std::collections::{BTreeMap, VecDeque};

/// A call graph over entities `0..n`.
#[derive(Debug)]
pub(super) struct Graph {
    callees: Vec<Vec<usize>>,
    /// Strongly connected component of each entity: entities of one component call each other in a
    /// circle.
    component: Vec<usize>,
    /// Whether the entity stands in any edge.
    known: Vec<bool>,
}

impl Graph {
    /// From named edges; edges of entities that are not in `index` don't count.
    pub fn new(edges: &[(String, String)], index: &BTreeMap<&str, usize>) -> Self {
        let mut callees = vec![Vec::new(); index.len()];
        let mut known = vec![false; index.len()];
        for (caller, callee) in edges {
            if let (Some(&from), Some(&to)) =
                (index.get(caller.as_str()), index.get(callee.as_str()))
            {
                if from != to {
                    callees[from].push(to);
                }
                (known[from], known[to]) = (true, true);
            }
        }
        for list in &mut callees {
            list.sort_unstable();
            list.dedup();
        }
        let component = components(&callees);
        Self {
            callees,
            component,
            known,
        }
    }

    /// Whether no edge is known.
    pub fn is_empty(&self) -> bool {
        self.callees.iter().all(Vec::is_empty)
    }

    /// Whether the entity stands in the topology at all.
    pub fn knows(&self, entity: usize) -> bool {
        self.known[entity]
    }

    /// Direct callees.
    pub fn callees(&self, entity: usize) -> &[usize] {
        &self.callees[entity]
    }

    /// Whether two entities call each other in a circle.
    pub fn circular(&self, a: usize, b: usize) -> bool {
        self.component[a] == self.component[b]
    }

    /// Calls from `start` to each entity, at least; `None` where no way leads.
    pub fn distances(&self, start: usize) -> Vec<Option<usize>> {
        let mut distances = vec![None; self.callees.len()];
        distances[start] = Some(0);
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((at, far)) = queue.pop_front() {
            for &next in &self.callees[at] {
                if distances[next].is_none() {
                    distances[next] = Some(far + 1);
                    queue.push_back((next, far + 1));
                }
            }
        }
        distances
    }

    /// The nearest callees that are `seen`, looking through those that are not, and the share of the
    /// direct callees behind which nothing is seen.
    pub fn seen_callees(&self, entity: usize, seen: &[bool]) -> (Vec<usize>, f64) {
        let mut found = Vec::new();
        let mut dark = 0;
        for &callee in &self.callees[entity] {
            let before = found.len();
            let mut visited = vec![false; self.callees.len()];
            visited[entity] = true;
            let mut stack = vec![callee];
            while let Some(at) = stack.pop() {
                if std::mem::replace(&mut visited[at], true) {
                    continue;
                }
                if seen[at] {
                    found.push(at);
                } else {
                    stack.extend(&self.callees[at]);
                }
            }
            dark += usize::from(found.len() == before);
        }
        found.sort_unstable();
        found.dedup();
        let all = self.callees[entity].len();
        let share = if all == 0 {
            0.0
        } else {
            dark as f64 / all as f64
        };
        (found, share)
    }
}

/// Tarjan's algorithm without recursion: graphs may be deep.
fn components(callees: &[Vec<usize>]) -> Vec<usize> {
    const NEW: usize = usize::MAX;
    let n = callees.len();
    let (mut order, mut low, mut component) = (vec![NEW; n], vec![0; n], vec![NEW; n]);
    let mut open = Vec::new();
    let (mut clock, mut count) = (0, 0);
    for root in 0..n {
        if order[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some(&mut (at, ref mut next)) = path.last_mut() {
            if *next == 0 {
                (order[at], low[at]) = (clock, clock);
                clock += 1;
                open.push(at);
            }
            if let Some(&callee) = callees[at].get(*next) {
                *next += 1;
                if order[callee] == NEW {
                    path.push((callee, 0));
                } else if component[callee] == NEW {
                    low[at] = low[at].min(order[callee]);
                }
                // `next` of 0 means "not begun": one without callees must not begin twice.
                continue;
            }
            path.pop();
            if let Some(&(caller, _)) = path.last() {
                low[caller] = low[caller].min(low[at]);
            }
            if low[at] == order[at] {
                while let Some(member) = open.pop() {
                    component[member] = count;
                    if member == at {
                        break;
                    }
                }
                count += 1;
            }
        }
    }
    component
}
