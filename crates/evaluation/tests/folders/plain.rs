//! Plain folders of pictures, and what was unpacked from or still lies in archives.

use std::sync::Arc;

use diorama_evaluation::source::{About, Place, Reader};

use crate::fake::{put, request, run, scene};

#[test]
fn plain_pictures_are_paired_with_references_by_name_whatever_their_extension() {
    let (pictures, references) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&pictures.path().join("forest/1.png"), &scene(30, 0));
    put(&pictures.path().join("forest/2.png"), &scene(30, 0));
    put(&references.path().join("forest/1.PNG"), &scene(0, 0));
    let about = pictures.path().join("about.csv");
    std::fs::write(&about, "custom_id,prompt,category\nforest/1,\"a deer, running\",natural\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut request = request(&[pictures.path()], out.path());
    request.opening.references = Some(references.path().to_owned());
    request.opening.about = Arc::new(About::read(&about).unwrap());
    let done = run(&request);
    assert_eq!(done.rows.iter().map(|row| row.custom_id.as_str()).collect::<Vec<_>>(), ["forest/1", "forest/2"]);
    assert!(done.rows[0].measures.contains_key("psnr"));
    assert_eq!(done.rows[0].prompt.as_deref(), Some("a deer, running"));
    assert_eq!((done.rows[0].scene.as_deref(), done.rows[0].category.as_deref()), (Some("forest"), Some("natural")));
    assert!(done.rows[1].notes[0].contains("no picture called forest/2 is among the references"));
}

#[test]
fn a_member_of_an_archive_is_read_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("shard-0.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    for (name, bytes) in [("a.png", &b"first"[..]), ("b.png", b"second one")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.finish().unwrap();
    let mut reader = Reader::default();
    let place = Place::Member { archive: archive.clone(), member: "b.png".to_owned() };
    assert_eq!(Place::parse(&place.to_string()), place);
    assert_eq!(reader.read(&place).unwrap(), b"second one");
    let gone = Place::Member { archive, member: "c.png".to_owned() };
    assert!(reader.read(&gone).unwrap_err().ends_with("shard-0.tar!c.png is gone"));
}
