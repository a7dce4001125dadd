//! Mesh × order: the situations in which everything must hold, and a table of what did not.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::init::must_init;
use super::mesh::{MESHES, Mesh};
use super::pod::Pod;

/// Pods are made by waiting for other programs, so a few at a time.
const WORKERS: usize = 4;

/// Whose rules were there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    OursFirst,
    MeshFirst,
}

/// A mesh, or none, and whose rules were there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) mesh: Option<Mesh>,
    pub(crate) order: Order,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20} {:<9}", self.mesh.map_or("no mesh", |mesh| mesh.name), format!("{:?}", self.order))
    }
}

impl Setup {
    /// No mesh and every mesh, in both orders.
    pub(crate) fn all() -> Vec<Self> {
        let meshes = std::iter::once(None).chain(MESHES.map(Some));
        meshes.flat_map(|mesh| [Order::OursFirst, Order::MeshFirst].map(|order| Self { mesh, order })).collect()
    }

    /// A pod with the mesh's rules, and ours by `bypassctl init` with these arguments, and its peer.
    pub(crate) fn build(self, init: &[&str]) -> (Pod, Pod) {
        let (pod, peer) = Pod::pair();
        self.apply(&pod, init);
        (pod, peer)
    }

    /// The same for a pod that is there already.
    pub(crate) fn apply(self, pod: &Pod, init: &[&str]) {
        if self.order == Order::OursFirst {
            must_init(pod, init);
        }
        if let Some(mesh) = self.mesh {
            mesh.load(pod);
        }
        if self.order == Order::MeshFirst {
            must_init(pod, init);
        }
    }
}

/// The cells of a table that were looked at, and those that are wrong.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    seen: usize,
    wrong: Vec<String>,
}

impl Cells {
    /// One cell.
    pub(crate) fn check<T: PartialEq + fmt::Display>(&mut self, cell: impl fmt::Display, seen: &T, expected: &T) {
        self.seen += 1;
        if seen != expected {
            let expected = expected.to_string();
            self.wrong.push(format!("{cell}  expected {expected:<36}  saw {seen}"));
        }
    }
}

/// Fills the cells of every case, several at a time, and fails with a table of all that are wrong.
pub(crate) fn check_all<C: Sync + fmt::Display>(cases: &[C], fill: impl Fn(&C, &mut Cells) + Sync) {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Cells::default()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut cells = Cells::default();
            // One pod that cannot be set up must not hide what the others show.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| fill(case, &mut cells))) {
                let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
                cells.wrong.push(format!("{case}  {text}"));
            }
            let mut total = total.lock().expect("nothing panics with the lock held");
            total.seen += cells.seen;
            total.wrong.append(&mut cells.wrong);
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    let Cells { seen, wrong } = total.into_inner().expect("nothing panics with the lock held");
    assert!(seen > 0 || !wrong.is_empty(), "nothing was looked at");
    assert!(wrong.is_empty(), "{} of {seen} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
