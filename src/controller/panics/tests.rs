use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn with(status: Value) -> Untyped {
    Untyped { metadata: ObjectMeta { generation: Some(3), ..ObjectMeta::default() }, status }
}

fn reported(status: &Value, now: &str) -> Option<Value> {
    with_report(&with(status.clone()), "it panicked", now.parse().unwrap())
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().unwrap();
    let found: Vec<_> = conditions.iter().filter(|found| found["type"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

#[test]
fn a_report_replaces_its_own_conditions_and_nothing_else() {
    let usable = json!({"type": "Usable", "status": "False", "reason": "PolicyViolation", "message": "m"});
    let before = json!({"state": "Active", "material": {"digest": "d"}, "conditions": [
        usable,
        {"type": "Ready", "status": "True", "reason": "Published", "message": "m"},
        {"type": "Reconciling", "status": "True", "reason": "Issuing", "message": "m"},
    ]});
    let status = reported(&before, NOW).unwrap();
    assert_eq!((&status["state"], &status["material"]), (&before["state"], &before["material"]));
    assert_eq!(*condition(&status, "Usable"), usable, "the verifier goes by this condition");
    assert_eq!(status["conditions"].as_array().unwrap().len(), 3);
    for (kind, holds) in [("Ready", "False"), ("Stalled", "True")] {
        let expected = json!({
            "type": kind, "status": holds, "observedGeneration": 3, "lastTransitionTime": NOW, "reason": "InternalError",
            "message": "it panicked",
        });
        assert_eq!(*condition(&status, kind), expected);
    }
    assert!(!reports_panic(&before) && reports_panic(&status));
    assert_eq!(
        reported(&status, "2026-01-02T00:00:00Z"),
        None,
        "a report that is there is not written again"
    );
}

#[test]
fn a_status_of_another_shape_gets_the_report_too() {
    for strange in [
        json!(null),
        json!("x"),
        json!([]),
        json!({"conditions": {"a": 1}}),
        json!({"conditions": [7, null]}),
    ] {
        assert!(!reports_panic(&strange));
        assert!(reports_panic(&reported(&strange, NOW).unwrap()), "{strange}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_delay_doubles_with_each_panic_in_a_row_up_to_a_minute() {
    let (panics, key) = (Panics::default(), Key::Policies);
    assert_eq!(panics.remaining(&key), None);
    for (count, seconds) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60)] {
        let delay = Duration::from_secs(seconds);
        assert_eq!(panics.note(&key), (count, delay));
        assert_eq!(panics.remaining(&key), Some(delay));
        assert_eq!(panics.remaining(&Key::Sweep), None);
        tokio::time::advance(delay).await;
        assert_eq!(panics.remaining(&key), None);
    }
    panics.clear(&key);
    assert_eq!(panics.note(&key), (1, FIRST_DELAY));
}
