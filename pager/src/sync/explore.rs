//! Running a model: how many executions or schedules, from which seed, and what it says of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `model` under every execution that C11's memory model allows with up to `preemptions`
/// switches away from a thread that could go on (`LOOM_MAX_PREEMPTIONS` in the environment wins).
///
/// # Panics
/// Where the model does in some execution; loom says which.
#[cfg(loom)]
pub fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    let executions = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executions);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!(
        "{name}: {} executions, up to {:?} preemptions",
        executions.load(Ordering::Relaxed),
        builder.preemption_bound
    );
}

/// Runs `model` under random schedules: half of them uniform, half by priorities that change at few
/// random points (PCT: Burckhardt et al., ASPLOS 2010). `BIFOLIO_SCHEDULES` in the environment says
/// how many, and `BIFOLIO_SEED` from which seed; else 500, and a seed of the moment.
///
/// # Panics
/// Where the model does in some schedule; shuttle says how to replay it.
#[cfg(shuttle)]
pub fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};

    let number = |name| Some(std::env::var(name).ok()?.parse().expect("a number"));
    let seed = number("BIFOLIO_SEED").unwrap_or_else(|| {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
        since.map_or(0, |since| since.as_nanos() as u64)
    });
    let schedules = number("BIFOLIO_SCHEDULES").unwrap_or(500) as usize;
    println!("{name}: {schedules} schedules from BIFOLIO_SEED={seed}");
    let run = Arc::new(AtomicU64::new(0));
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = shuttle::MaxSteps::FailAfter(1 << 20);
    let model = Arc::new(model);
    let counted = || {
        let (model, run) = (Arc::clone(&model), Arc::clone(&run));
        move || {
            run.fetch_add(1, Ordering::Relaxed);
            model();
        }
    };
    let half = schedules / 2;
    let uniform = RandomScheduler::new_from_seed(seed, schedules - half);
    shuttle::Runner::new(uniform, config.clone()).run(counted());
    if half > 0 {
        let priorities = PctScheduler::new_from_seed(seed, 4, half);
        shuttle::Runner::new(priorities, config).run(counted());
    }
    println!("{name}: {} schedules", run.load(Ordering::Relaxed));
}
