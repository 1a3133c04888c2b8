//! The README's example. Run it in an empty directory: `cargo run -p bifolio --example embed`.

fn main() -> Result<(), bifolio::Error> {
    // ANCHOR: embed
    use bifolio::Database;

    let db = Database::create("fruit.bifolio")?;

    let mut txn = db.write()?;
    txn.table("fruit")?.insert("apple", "red")?;
    txn.commit()?;

    let snapshot = db.read()?;
    let fruit = snapshot.table("fruit")?;
    assert_eq!(fruit.get("apple")?.as_deref(), Some(&b"red"[..]));
    for entry in fruit.range("a".."c") {
        let (key, value) = entry?;
        println!("{} is {}", key.escape_ascii(), value.escape_ascii());
    }
    // ANCHOR_END: embed
    Ok(())
}
