//! The gallery in a real browser.

use std::fs;
use std::path::{Path, PathBuf};

use diorama_tests::children;
use serde_json::{Value, json};

use crate::case::{Case, end};

const EVIL: &str = "</script><img src=x onerror=\"document.title='owned'\"> seagull";

/// What the page became in Chromium, as markup.
pub(crate) fn rendered(page: &Path, fragment: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = children::command("chromium");
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,900"])
        .args(["--virtual-time-budget=8000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}{fragment}", page.display()));
    let output = children::output(&mut chromium, "install it: apt-get install -y --no-install-recommends chromium");
    let html = String::from_utf8(output.stdout).unwrap();
    assert!(html.contains("id=\"rows\""), "no page:\n{html}\n{}", String::from_utf8_lossy(&output.stderr));
    without_scripts(&html)
}

/// The markup alone: the script's text and the data hold the same words.
fn without_scripts(html: &str) -> String {
    let mut parts = html.split("<script");
    let mut markup = parts.next().unwrap().to_owned();
    parts.for_each(|part| markup.push_str(part.split_once("</script>").unwrap().1));
    markup
}

/// A run with a nasty prompt, failures and comparisons; its page.
fn page(case: &Case, more: &[&str]) -> PathBuf {
    let row = |n: usize| {
        let prompt = if n == 4 { EVIL.to_owned() } else { format!("seagull number {n}") };
        json!({"custom_id": format!("row-{n:03}"), "reference": format!("place-{}.png", n % 3), "prompt": prompt,
               "region": "left-half.png"})
    };
    case.write_rows(&(0..20).map(row).collect::<Vec<_>>());
    let rest = ["--synthetic-fail-rate", "0.2", "--max-rounds", "0", "--compare", "img2img,img2img-reduced"];
    end(&mut case.run("out", &[&rest[..], more].concat())).expect(3);
    case.path("out/index.html")
}

fn ids(html: &str) -> Vec<&str> {
    html.split("data-id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The page with `script` run at its end, its policy taken out so that it may.
pub(crate) fn with_script(page: &Path, script: &str) -> PathBuf {
    let html = fs::read_to_string(page).unwrap();
    let (before, rest) = html.split_once("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
    let (_, after) = rest.split_once('>').unwrap();
    let path = page.with_file_name("with-script.html");
    let html = format!("{before}{after}").replace("</body>", &format!("<script>{script}</script></body>"));
    fs::write(&path, html).unwrap();
    path
}

#[test]
fn the_gallery_shows_each_row_with_its_pictures_side_by_side() {
    let case = Case::new();
    let html = rendered(&page(&case, &[]), "");
    assert_eq!(ids(&html).len(), 20);
    let first = html.split("data-id=\"row-000\"").nth(1).unwrap().split("</article>").next().unwrap();
    let captions: Vec<&str> = first.split("<figcaption>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
    // What was used of the reference, which is not square, and all of it behind everything else.
    let made = ["picture", "mask", "heat map: seagull", "img2img", "img2img-reduced"];
    assert_eq!(captions, [&["reference"][..], &made, &["whole reference"]].concat());
    for fact in ["seagull number 0", "seed <b>", "mask <b>", "place kept <b>"] {
        assert!(first.contains(fact), "{fact:?} is not in {first}");
    }
    let means = html.split("id=\"kept\"").nth(1).unwrap().split("</p>").next().unwrap();
    assert_eq!(means.matches(" dB</b>").count(), 3, "{means}");
    // The picture and both that it is compared with.
    assert_eq!(first.matches("class=\"score\"").count(), 3, "{first}");
}

#[test]
fn a_prompt_with_markup_is_shown_and_not_run() {
    let case = Case::new();
    let html = rendered(&page(&case, &[]), "");
    assert!(html.contains("&lt;/script&gt;&lt;img src=x onerror="), "the prompt is not shown");
    assert!(!html.contains("<img src=\"x\"") && !html.contains("<title>owned"), "the prompt became markup");
}

#[test]
fn the_gallery_filters_and_sorts() {
    let case = Case::new();
    let page = page(&case, &[]);
    let failed = rendered(&page, "#status=failed");
    assert!(!ids(&failed).is_empty() && ids(&failed).len() < 20);
    assert_eq!(failed.matches("note failure").count(), ids(&failed).len());
    assert_eq!(ids(&rendered(&page, "#text=number+17")), ["row-017"]);
    assert_eq!(ids(&rendered(&page, "#text=no+such+thing")), [] as [&str; 0]);
    for (sort, fact, unit) in [("coverage-down", "mask <b>", " %"), ("outside-down", "place kept <b>", " dB")] {
        let html = rendered(&page, &format!("#status=done&sort={sort}"));
        let values: Vec<f64> =
            html.split(fact).skip(1).map(|rest| rest.split(unit).next().unwrap().parse().unwrap()).collect();
        assert!(values.len() > 10 && values.is_sorted_by(|a, b| a >= b), "{sort}: {values:?}");
    }
}

#[test]
fn every_picture_of_the_page_loads_in_both_formats() {
    for format in ["files", "webdataset"] {
        let case = Case::new();
        // Eager pictures hold up the load event until each is there or has failed.
        let script = "const images = [...document.querySelectorAll('.strip img')];
            for (const image of images) image.loading = 'eager';
            addEventListener('load', () => {
              document.body.dataset.images = images.length;
              document.body.dataset.broken = images.filter((image) => !image.complete || !image.naturalWidth).length;
            });";
        let html = rendered(&with_script(&page(&case, &["--format", format]), script), "");
        assert!(html.contains("data-broken=\"0\""), "{format}: pictures are missing");
        let images = html.split("data-images=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(images.parse::<u32>().unwrap() > 60, "{format}: {images} pictures");
    }
}

#[test]
fn a_picture_opens_large_and_the_keys_move_through_the_rows() {
    let case = Case::new();
    let script = "const seen = [];
        const see = () => seen.push(document.getElementById('viewer').open + ' ' + document.getElementById('caption').textContent);
        const key = (key) => document.getElementById('viewer').dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        document.querySelector('.strip button').click(); see();
        key('ArrowRight'); see();
        for (let i = 0; i < 6; i++) key('ArrowRight');
        see();
        key('ArrowLeft'); see();
        key('ArrowDown'); see();
        document.getElementById('close').click(); see();
        document.body.dataset.seen = seen.join('|');";
    let html = rendered(&with_script(&page(&case, &[]), script), "#status=done");
    let seen: Vec<&str> = html.split("data-seen=\"").nth(1).unwrap().split('"').next().unwrap().split('|').collect();
    assert_eq!(seen[0], "true reference · row-000");
    assert_eq!(seen[1], "true picture · row-000");
    assert!(seen[2].starts_with("true reference · ") && !seen[2].ends_with("row-000"), "{seen:?}");
    assert_eq!(seen[3], "true whole reference · row-000");
    assert!(seen[4].starts_with("true whole reference · ") && !seen[4].ends_with("row-000"), "{seen:?}");
    assert!(seen[5].starts_with("false"), "{seen:?}");
}

#[test]
fn ten_thousand_rows_cost_no_more_than_those_in_sight() {
    let case = Case::new();
    case.manifest(1);
    end(&mut case.run("out", &[])).expect(0);
    let task = |n: usize| json!({"index": n, "custom_id": format!("row-{n:05}"), "reference": null, "prompt": format!("seagull {n}"), "seed": n});
    let tasks: Vec<String> = (1..10_000).map(|n| task(n).to_string()).collect();
    // A run of ten thousand rows that goes on: its log says so, and has no further entry.
    let log = case.path("out/decisions");
    let mut submitted: Value = serde_json::from_slice(&fs::read(log.join("000000.json")).unwrap()).unwrap();
    let writer = submitted["round"]["inputs"].as_str().unwrap().to_owned();
    (submitted["round"]["shards"], submitted["round"]["tasks"]) = (2.into(), 10_000.into());
    fs::remove_dir_all(&log).unwrap();
    fs::create_dir(&log).unwrap();
    fs::write(log.join("000000.json"), submitted.to_string()).unwrap();
    fs::write(case.path(&format!("out/input/r0-000001.{writer}.jsonl")), tasks.join("\n")).unwrap();
    end(&mut case.diorama(&["report", "out"])).expect(0);
    let page = case.path("out/index.html");
    let html = rendered(&page, "");
    assert!((20..500).contains(&ids(&html).len()), "{} rows were drawn", ids(&html).len());
    assert!(html.contains("10000 of 10000"));
    assert_eq!(ids(&rendered(&page, "#text=seagull+9999")), ["row-09999"]);
}
