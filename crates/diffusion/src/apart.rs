//! Pictures made apart, each on one thread.
//!
//! A small network is many small kernels. Threads that share each of them spend their time waiting for each other, and
//! a batch does not fit the cache that one row does. So where a network is small, every picture of a batch goes through
//! its whole way by itself, and so do the two rows of guidance, on threads that libtorch does not split any further.
//! Then a picture depends neither on the number of cores nor on the size of the batch: always the same kernels run over
//! the same single row. Which thread runs what is left to who is free.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::error::{Error, Result};

/// libtorch remembers the last number of threads that anyone set, for threads that have not asked yet.
static COUNT: Mutex<()> = Mutex::new(());

/// Threads that live as long as the model, each running libtorch's kernels alone.
pub(crate) struct Threads {
    pool: rayon::ThreadPool,
    /// Pictures that are being made: while there are fewer than threads, their rows are worth sharing out.
    pictures: AtomicUsize,
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
        Ok(Self { pool, pictures: AtomicUsize::new(0) })
    }

    /// `work` for each picture, in the order of `pictures`.
    pub(crate) fn pictures<I: Sync, T: Send>(
        &self,
        pictures: &[I],
        work: impl Fn(&I) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.each(pictures.iter().collect(), |picture| {
            self.pictures.fetch_add(1, Ordering::Relaxed);
            let made = guarded(|| work(picture));
            self.pictures.fetch_sub(1, Ordering::Relaxed);
            made
        })
    }

    /// `work` for each row of a picture, in order: side by side if a thread is free, else one after the other.
    pub(crate) fn rows<I: Send, T: Send>(&self, rows: Vec<I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
        if self.pictures.load(Ordering::Relaxed) >= self.pool.current_num_threads() {
            return rows.into_iter().map(work).collect();
        }
        self.each(rows, |row| guarded(|| work(row)))
    }

    fn each<I: Send, T: Send>(&self, items: Vec<I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
        // One item at a time is taken: they are few and long.
        self.pool.install(|| items.into_par_iter().with_max_len(1).map(&work).collect())
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
        let before = tch::get_num_threads();
        let threads = Threads::start().unwrap();
        let counts = threads.pictures(&[(); 16], |()| Ok(tch::get_num_threads())).unwrap();
        assert_eq!(counts, [1; 16]);
        assert_eq!(tch::get_num_threads(), before);
        assert_eq!(std::thread::spawn(tch::get_num_threads).join().unwrap(), before);
    }

    #[test]
    fn results_come_in_order_and_rows_of_a_picture_may_run_inside_it() {
        let threads = Threads::start().unwrap();
        let made = threads.pictures(&(0..20).collect::<Vec<i64>>(), |&i| threads.rows(vec![i, -i], |row| Ok(row + 1)));
        assert_eq!(made.unwrap(), (0..20).map(|i| vec![i + 1, 1 - i]).collect::<Vec<_>>());
        assert_eq!(threads.pictures.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_error_or_a_panic_in_one_ends_the_batch_and_spares_the_threads() {
        let threads = Threads::start().unwrap();
        let stopped = threads.pictures(&[1, 2, 3], |&i| if i == 2 { Err(Error::Stopped) } else { Ok(i) });
        assert!(matches!(stopped.unwrap_err(), Error::Stopped));
        for nested in [false, true] {
            let panicked = threads.pictures(&[1, 2, 3], |&i| {
                let work = |i| if i == 2 { panic!("picture {i}") } else { Ok(i) };
                if nested { threads.rows(vec![i], work).map(|_| i) } else { work(i) }
            });
            let message = panicked.unwrap_err().to_string();
            assert!(message.contains("panicked: picture 2"), "{message}");
            assert_eq!(threads.pictures(&[4], |&i| Ok(i)).unwrap(), [4]);
        }
    }

    #[test]
    fn no_graph_is_recorded_on_these_threads() {
        let threads = Threads::start().unwrap();
        let tracked = threads.pictures(&[(); 4], |()| {
            let x = tch::Tensor::f_ones([1], (tch::Kind::Float, tch::Device::Cpu))?.f_set_requires_grad(true)?;
            Ok(x.f_mul_scalar(2.0)?.requires_grad())
        });
        assert_eq!(tracked.unwrap(), [false; 4]);
    }
}
