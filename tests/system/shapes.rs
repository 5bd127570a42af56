//! References of every shape: cropped, padded or squashed, and the same in the record, the gallery and again in a replay.

use std::fs;

use serde_json::{Value, json};

use crate::case::{Case, end, tree};

#[test]
fn a_photograph_is_cropped_unless_its_row_says_otherwise_and_the_record_and_the_gallery_show_it() {
    let case = Case::new();
    let row = |id: &str, fit: Option<&str>| {
        let mut row = json!({"custom_id": id, "reference": "place-0.png", "prompt": "a seagull"});
        if let Some(fit) = fit {
            row["fit"] = fit.into();
        }
        row
    };
    case.write_rows(&[row("default", None), row("padded", Some("pad")), row("squashed", Some("stretch"))]);
    end(&mut case.run("out", &["--keep-references", "true"])).expect(0);
    let record = |id: &str| -> Value {
        serde_json::from_slice(&fs::read(case.path(&format!("out/records/{id}.json"))).unwrap()).unwrap()
    };
    // References are 48×32, synthetic pictures 16×16.
    let region = |x: u32, y: u32, width: u32, height: u32| json!({"x": x, "y": y, "width": width, "height": height});
    for (id, crop, at) in [
        ("default", region(8, 0, 32, 32), region(0, 0, 16, 16)),
        ("padded", region(0, 0, 48, 32), region(0, 2, 16, 11)),
        ("squashed", region(0, 0, 48, 32), region(0, 0, 16, 16)),
    ] {
        let reference = record(id)["reference"].clone();
        assert_eq!((&reference["used"]["crop"], &reference["used"]["at"]), (&crop, &at), "{id}: {reference}");
        assert_eq!((&reference["width"], &reference["height"]), (&48.into(), &32.into()));
        let used = image::open(case.path(&format!("out/used-references/{id}.png"))).unwrap();
        assert_eq!((used.width(), used.height()), (16, 16));
        end(&mut case.diorama(&["replay", "--out", "out", id, "--engine", "synthetic"])).expect(0);
    }
    // The page has the whole reference once, and what was used of it for each shape.
    let shown = tree(&case.path("out/references"));
    assert_eq!(shown.len(), 4, "{:?}", shown.keys());
    let page = fs::read_to_string(case.path("out/index.html")).unwrap();
    assert!(page.contains("whole reference"), "the reader sees what was cut");
    assert_eq!(end(&mut case.run("refused", &["--fit", "squeeze"])).code, Some(2));
}
