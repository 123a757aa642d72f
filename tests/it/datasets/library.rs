//! The library's requests for a dataset, without the program.

use std::sync::Arc;
use std::time::Duration;

use hfauto::ErrorKind;
use hfauto::hub::{Change, Content, Dataset, HubSettings};
use tokio::runtime::Runtime;

use super::server::{DATASET, FakeDataset, TOKEN};

fn settings(fake: &FakeDataset) -> HubSettings {
    HubSettings::from_env()
        .with_endpoint(fake.hub.url())
        .with_offline(false)
        .with_token(Some(TOKEN.to_owned()))
        .with_retries(3)
        .with_retry_delay(Duration::from_millis(1))
}

fn dataset(settings: HubSettings) -> Arc<Dataset> {
    Arc::new(Dataset::new(settings, DATASET).unwrap())
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

fn change(path: &str, content: Content) -> Change {
    Change { path: path.to_owned(), content, counts: true }
}

fn bytes(path: &str, content: &[u8]) -> Change {
    change(path, Content::Bytes(content.to_vec()))
}

#[test]
fn files_are_listed_found_and_read_by_range() {
    let large = numbers(200_000);
    let fake = FakeDataset::new(&[
        ("README.md", b"# x"),
        ("data/a b.parquet", &large),
        ("data/x.csv", b"id\n1\n"),
        ("z/y.csv", b"1"),
    ]);
    fake.change(|world| {
        world.page = 2;
        (world.busy, world.cuts, world.expired) = (1, 2, 1);
    });
    let dataset = dataset(settings(&fake));
    Runtime::new().unwrap().block_on(async {
        let commit = dataset.commit_of("main").await.unwrap();
        let files = dataset.files(&commit, "").await.unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["README.md", "data/a b.parquet", "data/x.csv", "z/y.csv"]);
        assert_eq!(dataset.files(&commit, "data").await.unwrap(), files[1..3]);
        assert_eq!(dataset.files(&commit, "none").await.unwrap(), []);
        // A file alone has the size and the hash of the listing, in large file storage or not.
        for file in &files {
            let alone = dataset.file(&commit, &file.path).await.unwrap();
            assert_eq!(alone.as_ref(), Some(file));
        }
        assert_eq!(dataset.file(&commit, "data/none").await.unwrap(), None);

        let mut pieces = dataset.read(&commit, "data/a b.parquet", 1000..500_000);
        let mut read = Vec::new();
        while let Some(piece) = pieces.next().await.unwrap() {
            read.extend(piece);
        }
        assert_eq!(read, large[1000..500_000]);
        let content = dataset.content(&commit, "data/x.csv", 5).await.unwrap();
        assert_eq!(content.as_deref(), Some(&b"id\n1\n"[..]));
        let error = dataset.content(&commit, "data/x.csv", 4).await.unwrap_err();
        assert!(error.message().contains("expected at most 4"), "{error}");
    });
    fake.change(|world| assert_eq!((world.busy, world.cuts, world.expired), (0, 0, 0)));
    for seen in fake.storage.seen() {
        assert!(!seen.headers.contains_key("authorization"), "{}", seen.line());
        assert!(seen.headers["range"].ends_with("-499999"), "{}", seen.headers["range"]);
    }
}

#[test]
fn changes_are_one_commit_and_no_change_is_none() {
    for chunk_size in [None, Some(1000)] {
        let fake = FakeDataset::new(&[("README.md", b"# x"), ("old.csv", b"1")]);
        fake.change(|world| world.chunk_size = chunk_size);
        let dataset = dataset(settings(&fake));
        let folder = tempfile::tempdir().unwrap();
        let (file, large) = (folder.path().join("large"), numbers(2000));
        std::fs::write(&file, &large).unwrap();
        let card = |text: &str| Change { counts: false, ..bytes("README.md", text.as_bytes()) };
        let mut changes = vec![
            change("v/a.parquet", Content::File(file)),
            bytes("v/b.csv", b"id\n2\n"),
            bytes("v/empty.parquet", b""),
            card("# y"),
            change("old.csv", Content::Deleted),
        ];
        Runtime::new().unwrap().block_on(async {
            dataset.check_writable("main").await.unwrap();
            let parent = dataset.commit_of("main").await.unwrap();
            fake.change(|world| world.busy = 1);
            let prepared = dataset.prepare("main", &parent, &changes, "text").await.unwrap();
            // The storage has the files, and the dataset is as it was.
            assert_eq!((fake.commits(), fake.storage.seen().is_empty()), (1, false));
            let pushed = dataset.commit(&prepared.unwrap()).await.unwrap();
            assert_eq!(pushed.commit, dataset.commit_of("main").await.unwrap());
            let files = fake.files();
            assert_eq!((&files["v/a.parquet"], &*files["v/b.csv"]), (&large, &b"id\n2\n"[..]));
            assert_eq!((files.len(), &*files["README.md"]), (4, &b"# y"[..]));

            changes.pop();
            changes[3] = card("# z");
            let again = dataset.prepare("main", &pushed.commit, &changes, "text").await.unwrap();
            assert!(again.is_none());
        });
    }
}

#[test]
fn refusals_of_a_commit_say_what_to_do() {
    let fake = FakeDataset::new(&[("README.md", b"# x")]);
    let ada = dataset(settings(&fake));
    let changes = [bytes("v/c.csv", b"3")];
    Runtime::new().unwrap().block_on(async {
        let parent = ada.commit_of("main").await.unwrap();
        let prepared = ada.prepare("main", &parent, &changes, "text").await.unwrap().unwrap();
        fake.change(|world| world.race = true);
        let error = ada.commit(&prepared).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
        assert!(error.message().contains("another commit came to `main`"), "{error}");

        let parent = ada.commit_of("main").await.unwrap();
        let prepared = ada.prepare("main", &parent, &changes, "text").await.unwrap().unwrap();
        fake.change(|world| world.lose_answer = true);
        let error = ada.commit(&prepared).await.unwrap_err();
        assert!(error.remedy().unwrap().contains("finds out whether"), "{error}");

        let check = async |token: Option<&str>, branch: &str, text: &str| {
            let settings = settings(&fake).with_token(token.map(str::to_owned));
            let error = dataset(settings).check_writable(branch).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        };
        check(None, "main", "no token to write to dataset `ada/reviews`").await;
        check(Some("hf_other"), "main", "may not write to dataset `ada/reviews`").await;
        check(Some(TOKEN), "next", "its branch `next` does not exist").await;
    });
    let offline = Dataset::new(settings(&fake).with_offline(true), DATASET).unwrap_err();
    assert!(offline.to_string().contains("unset `HF_HUB_OFFLINE`"), "{offline}");
    assert_eq!(Dataset::new(settings(&fake), "reviews").unwrap_err().kind(), ErrorKind::Config);
}
