//! Parts of a batch made apart, each on one thread.
//!
//! A small network is many small kernels, and threads that share each of them spend their time waiting for each other.
//! So where a network is small, a batch is cut into groups of a few pictures; each goes its whole way on a thread on
//! which libtorch does not split its kernels any further. How a batch is cut follows from its size alone, never from
//! the number of threads: the same kernels run over the same rows on any number of cores, and give the same bytes.
//! Which thread runs what is left to who is free.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::error::{Error, Result};

/// libtorch remembers the last number of threads that anyone set, for threads that have not asked yet.
static COUNT: Mutex<()> = Mutex::new(());

/// Threads that live as long as the model, each running libtorch's kernels alone.
pub(crate) struct Threads(rayon::ThreadPool);

/// Pictures that go their way in one group, out of a batch of `batch_size`. More rows at once take less time each, for
/// the weights are read once for all of them, up to about eight rows; but there should be groups enough for all cores.
pub(crate) fn group_size(batch_size: usize) -> usize {
    (batch_size / 8).clamp(1, 4)
}

impl Threads {
    /// As many as libtorch would give a kernel: the cores, or what `OMP_NUM_THREADS` says.
    pub(crate) fn start() -> Result<Self> {
        let _one_at_a_time = COUNT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = tch::get_num_threads();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count.max(1) as usize)
            .thread_name(|i| format!("picture-{i}"))
            .build()
            .map_err(|error| Error::Torch(format!("starting {count} threads: {error}")))?;
        pool.broadcast(|_| {
            // Asking first: a thread that never asked would take the remembered number over its own.
            tch::get_num_threads();
            tch::set_num_threads(1);
        });
        tch::set_num_threads(count);
        Ok(Self(pool))
    }

    /// `work` for each item, in order. The first error ends it; so does a panic, as an error.
    pub(crate) fn each<I: Send, T: Send>(&self, items: Vec<I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
        // One item at a time is taken: they are few and long.
        let items = || items.into_par_iter().with_max_len(1).map(|item| guarded(|| work(item))).collect();
        self.0.install(items)
    }
}

/// Runs without a graph, which is a choice of each thread; a panic becomes the batch's error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| tch::no_grad(work))).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::Torch(format!("a thread of the model panicked: {}", text.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_alone_on_these_threads_and_as_before_on_all_others() {
        // Other tests start threads, too: nobody asks for the first time meanwhile.
        let asked = || {
            let _one_at_a_time = COUNT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (tch::get_num_threads(), std::thread::spawn(tch::get_num_threads).join().unwrap())
        };
        let before = asked();
        let threads = Threads::start().unwrap();
        assert_eq!(threads.each(vec![(); 16], |()| Ok(tch::get_num_threads())).unwrap(), [1; 16]);
        assert_eq!(asked(), before);
    }

    #[test]
    fn results_come_in_order_from_inside_an_item_too() {
        let threads = Threads::start().unwrap();
        let made = threads.each((0..20).collect(), |i: i64| threads.each(vec![i, -i], |row| Ok(row + 1)));
        assert_eq!(made.unwrap(), (0..20).map(|i| vec![i + 1, 1 - i]).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_or_a_panic_in_one_ends_the_batch_and_spares_the_threads() {
        let threads = Threads::start().unwrap();
        let stopped = threads.each(vec![1, 2, 3], |i| if i == 2 { Err(Error::Stopped) } else { Ok(i) });
        assert!(matches!(stopped.unwrap_err(), Error::Stopped));
        let panicked = threads.each(vec![1, 2, 3], |i| if i == 2 { panic!("item {i}") } else { Ok(i) });
        let message = panicked.unwrap_err().to_string();
        assert!(message.contains("panicked: item 2"), "{message}");
        assert_eq!(threads.each(vec![4], Ok).unwrap(), [4]);
    }

    #[test]
    fn no_graph_is_recorded_on_these_threads() {
        let threads = Threads::start().unwrap();
        let tracked = threads.each(vec![(); 4], |()| {
            let x = tch::Tensor::f_ones([1], (tch::Kind::Float, tch::Device::Cpu))?.f_set_requires_grad(true)?;
            Ok(x.f_mul_scalar(2.0)?.requires_grad())
        });
        assert_eq!(tracked.unwrap(), [false; 4]);
    }

    #[test]
    fn a_batch_is_cut_into_at_least_eight_groups_where_it_has_as_many_pictures() {
        assert_eq!([1, 4, 8, 15, 16, 24, 32, 64].map(group_size), [1, 1, 1, 1, 2, 3, 4, 4]);
        assert!((8..100).all(|size: usize| size.div_ceil(group_size(size)) >= 8));
    }
}
