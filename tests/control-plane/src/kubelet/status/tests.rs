//! A pod's status follows its containers.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn run(name: &str) -> Run {
    Run::new(&Container { name: name.to_owned(), ..Container::default() }, "ContainerCreating")
}

fn running(ready: bool) -> Run {
    let mut run = run("c");
    run.run(1234, at(1));
    run.status.ready = ready;
    run
}

fn ended(code: i32) -> Run {
    let mut run = run("c");
    run.end(code, at(1), at(2));
    run.finish();
    run
}

fn of(init: Vec<Run>, containers: Vec<Run>) -> PodStatus {
    let over = containers.iter().all(|run| run.over);
    let progress = Progress { init, containers, over };
    status(&Pod::default(), Ipv4Addr::LOCALHOST, at(0), &progress, &[], at(9))
}

fn says(status: &PodStatus, kind: &str) -> String {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap();
    [condition.status.as_str(), condition.reason.as_deref().unwrap_or("-")].join(" ")
}

#[test]
fn the_phase_follows_the_containers() {
    let mut crashed = run("c");
    crashed.end(1, at(1), at(2));
    crashed.back_off("back-off");
    for (init, containers, phase) in [
        (vec![], vec![run("c")], "Pending"),
        (vec![ended(0)], vec![run("c")], "Pending"),
        (vec![running(false)], vec![run("c")], "Pending"),
        (vec![ended(1)], vec![run("c")], "Failed"),
        (vec![ended(0)], vec![running(false), running(true)], "Running"),
        (vec![], vec![running(true), ended(1)], "Running"),
        (vec![], vec![crashed.clone()], "Running"),
        (vec![], vec![ended(0), ended(0)], "Succeeded"),
        (vec![], vec![ended(0), ended(3)], "Failed"),
    ] {
        assert_eq!(of(init, containers).phase.as_deref(), Some(phase));
    }
    crashed.finish();
    assert_eq!(crashed.exit_code(), Some(1));
}

#[test]
fn a_pod_is_ready_when_all_its_containers_are() {
    let status = of(vec![run("first")], vec![run("c")]);
    assert_eq!(says(&status, "Initialized"), "False ContainersNotInitialized");
    assert_eq!(says(&status, "PodScheduled"), "True -");
    assert_eq!(says(&of(vec![], vec![running(true), running(false)]), "Ready"), "False ContainersNotReady");
    assert_eq!(says(&of(vec![], vec![running(true)]), "Ready"), "True -");
    assert_eq!(says(&of(vec![], vec![ended(0)]), "ContainersReady"), "False PodCompleted");
}

#[test]
fn a_condition_keeps_its_time_until_it_turns() {
    let progress = |ready| Progress { init: vec![], containers: vec![running(ready)], over: false };
    let write = |ready, before: &[PodCondition], now| {
        let status = status(&Pod::default(), Ipv4Addr::LOCALHOST, at(0), &progress(ready), before, at(now));
        status.conditions.unwrap_or_default()
    };
    let since = |conditions: &[PodCondition]| conditions[1].last_transition_time.clone().map(|time| time.0);
    let first = write(false, &[], 1);
    let second = write(false, &first, 2);
    let third = write(true, &second, 3);
    assert_eq!([since(&first), since(&second), since(&third)], [Some(at(1)), Some(at(1)), Some(at(3))]);
}
