//! The tasks of a library: each is polled when somebody has woken it, in the order in which that was done.
//!
//! A task has a place, and the place a waker, which stays when the task ends. So a handler that ends at its first poll, as
//! most do, needs no memory of its own to be waked through, and one that waits need not be polled a second time to be given
//! a waker. Whoever wakes a task that has ended wakes the one that has its place now, for nothing; futures bear that.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// Places that are kept when no task is left.
const KEPT: usize = 64;

/// Tasks that wait, and those that were woken.
pub(crate) struct Tasks<T> {
    places: RefCell<Places<T>>,
    woken: Arc<Woken>,
}

struct Places<T> {
    all: Vec<Place<T>>,
    free: Vec<usize>,
}

struct Place<T> {
    /// Not here while it is being polled.
    task: Option<T>,
    bell: Arc<Bell>,
    waker: Rc<Waker>,
}

/// Wakes the task in one place.
struct Bell {
    place: usize,
    /// Whether it stands in the queue already.
    rung: AtomicBool,
    woken: Arc<Woken>,
}

struct Woken {
    places: Mutex<Vec<usize>>,
    /// Has somebody poll.
    tell: Box<dyn Fn() + Send + Sync>,
}

impl<T: Future<Output = ()> + Unpin> Tasks<T> {
    /// No tasks. `tell` is called when there is one to be polled, from any thread.
    pub(crate) fn new(tell: impl Fn() + Send + Sync + 'static) -> Tasks<T> {
        let woken = Arc::new(Woken { places: Mutex::default(), tell: Box::new(tell) });
        Tasks { places: RefCell::new(Places { all: Vec::new(), free: Vec::new() }), woken }
    }

    /// Polls a new task, and keeps it if it has to wait.
    pub(crate) fn begin(&self, task: T) {
        let (place, waker) = self.take_place();
        self.poll_in(place, &waker, task);
    }

    /// Takes a new task, to be polled later.
    pub(crate) fn add(&self, task: T) {
        let (place, _) = self.take_place();
        let mut places = self.places.borrow_mut();
        if let Some(Place { task: empty, bell, .. }) = places.all.get_mut(place) {
            *empty = Some(task);
            bell.wake_by_ref();
        }
    }

    /// Polls the tasks that were woken until now, each once; `after` is called after each.
    pub(crate) fn poll_woken(&self, mut after: impl FnMut()) {
        let woken = std::mem::take(&mut *self.woken.places());
        for place in woken {
            // Of a task that has ended nothing may be left, not even the place.
            let woken = self.places.borrow_mut().all.get_mut(place).and_then(|place| {
                place.bell.rung.store(false, Ordering::SeqCst);
                Some((place.waker.clone(), place.task.take()?))
            });
            if let Some((waker, task)) = woken {
                self.poll_in(place, &waker, task);
                after();
            }
        }
    }

    /// Takes all tasks out.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut places = self.places.borrow_mut();
        places.free.clear();
        std::mem::take(&mut places.all).into_iter().filter_map(|place| place.task).collect()
    }

    fn take_place(&self) -> (usize, Rc<Waker>) {
        let Places { all, free } = &mut *self.places.borrow_mut();
        if let Some(place) = free.pop()
            && let Some(Place { waker, .. }) = all.get(place)
        {
            return (place, waker.clone());
        }
        let place = all.len();
        let bell = Arc::new(Bell { place, rung: AtomicBool::new(false), woken: self.woken.clone() });
        let waker = Rc::new(Waker::from(bell.clone()));
        all.push(Place { task: None, waker: waker.clone(), bell });
        (place, waker)
    }

    /// Nothing is borrowed while the task runs: it may do anything.
    fn poll_in(&self, place: usize, waker: &Waker, mut task: T) {
        let polled = Pin::new(&mut task).poll(&mut Context::from_waker(waker));
        let mut places = self.places.borrow_mut();
        if polled.is_pending() {
            if let Some(place) = places.all.get_mut(place) {
                place.task = Some(task);
            }
            return;
        }
        places.free.push(place);
        if places.free.len() == places.all.len() && places.all.len() > KEPT {
            places.all.truncate(KEPT);
            places.all.shrink_to_fit();
            places.free = (0..KEPT).collect();
        }
        drop(places);
        drop(task);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.woken.places().push(self.place);
            (self.woken.tell)();
        }
    }
}

impl Woken {
    fn places(&self) -> MutexGuard<'_, Vec<usize>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, sync::atomic::AtomicUsize, task::Poll};

    use super::*;

    type Work = Pin<Box<dyn Future<Output = ()>>>;

    fn tasks() -> (Tasks<Work>, Arc<AtomicUsize>) {
        let told = Arc::new(AtomicUsize::new(0));
        let tell = told.clone();
        let tell = move || {
            tell.fetch_add(1, Ordering::SeqCst);
        };
        (Tasks::new(tell), told)
    }

    /// A task that ends when it is opened, and counts how often it was polled.
    #[derive(Clone, Default)]
    struct Gate {
        open: Rc<Cell<bool>>,
        polls: Rc<Cell<usize>>,
        waker: Rc<RefCell<Option<Waker>>>,
    }

    impl Gate {
        fn task(&self) -> Work {
            let Gate { open, polls, waker } = self.clone();
            Box::pin(poll_fn(move |context| {
                polls.set(polls.get() + 1);
                waker.replace(Some(context.waker().clone()));
                if open.get() { Poll::Ready(()) } else { Poll::Pending }
            }))
        }

        fn waker(&self) -> Waker {
            self.waker.borrow().clone().expect("it was polled")
        }

        fn open(&self) {
            self.open.set(true);
            self.waker().wake();
        }
    }

    #[test]
    fn a_task_that_waits_is_polled_once_when_it_begins_and_once_when_it_is_woken() {
        let (tasks, told) = tasks();
        let (first, second) = (Gate::default(), Gate::default());
        tasks.begin(first.task());
        tasks.begin(second.task());
        tasks.poll_woken(|| panic!("nobody was woken"));
        second.open();
        second.waker().wake();
        assert_eq!(told.load(Ordering::SeqCst), 1, "for both wakes");
        let ended = Cell::new(0);
        tasks.poll_woken(|| ended.set(ended.get() + 1));
        assert_eq!((ended.get(), first.polls.get(), second.polls.get()), (1, 1, 2));
        assert_eq!(tasks.take().len(), 1);
    }

    #[test]
    fn a_task_that_is_added_is_polled_in_the_next_round_and_one_that_wakes_itself_in_the_one_after() {
        let (tasks, told) = tasks();
        let polls = Rc::new(Cell::new(0));
        let counted = polls.clone();
        tasks.add(Box::pin(poll_fn(move |context| {
            counted.set(counted.get() + 1);
            context.waker().wake_by_ref();
            Poll::Pending
        })));
        assert_eq!((polls.get(), told.load(Ordering::SeqCst)), (0, 1));
        for round in 1..=3 {
            tasks.poll_woken(|| {});
            assert_eq!((polls.get(), told.load(Ordering::SeqCst)), (round, 1 + round));
        }
    }

    #[test]
    fn whoever_wakes_a_task_that_has_ended_harms_none() {
        let (tasks, _) = tasks();
        let (ended, next) = (Gate::default(), Gate::default());
        tasks.begin(ended.task());
        ended.open();
        tasks.poll_woken(|| {});
        tasks.begin(next.task());
        std::thread::scope(|scope| {
            let waker = ended.waker();
            scope.spawn(move || waker.wake());
        });
        tasks.poll_woken(|| {});
        assert_eq!((ended.polls.get(), next.polls.get()), (2, 2), "it has the place now");
        next.open();
        tasks.poll_woken(|| {});
        next.waker().wake();
        tasks.poll_woken(|| panic!("there is nobody"));
    }

    #[test]
    fn places_are_used_again_and_given_back() {
        let (tasks, _) = tasks();
        let gates: Vec<Gate> = std::iter::repeat_with(Gate::default).take(10 * KEPT).collect();
        for round in 0..3 {
            gates.iter().for_each(|gate| tasks.begin(gate.task()));
            assert_eq!(tasks.places.borrow().all.len(), gates.len(), "in round {round}");
            gates.iter().for_each(Gate::open);
            tasks.poll_woken(|| {});
            assert_eq!((tasks.places.borrow().all.len(), tasks.places.borrow().free.len()), (KEPT, KEPT));
            gates.iter().for_each(|gate| gate.open.set(false));
            // Of places that are gone.
            gates.iter().for_each(|gate| gate.waker().wake());
            tasks.poll_woken(|| panic!("there is nobody"));
        }
    }

    #[test]
    fn a_task_may_begin_others_while_it_is_polled() {
        let (tasks, _) = tasks();
        let tasks = Rc::new(tasks);
        let (inner, again) = (Gate::default(), tasks.clone());
        let task = inner.task();
        let mut task = Some(task);
        tasks.begin(Box::pin(poll_fn(move |_| {
            task.take().into_iter().for_each(|task| again.begin(task));
            Poll::Ready(())
        })));
        inner.open();
        tasks.poll_woken(|| {});
        assert_eq!(inner.polls.get(), 2);
        assert!(tasks.take().is_empty());
    }
}
