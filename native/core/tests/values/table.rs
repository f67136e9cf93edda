//! The real table of texts. `TICKSERVE_TEXTS` names a JSON file of it: `table()` of server/engine/texts.py, where each
//! entry may also hold what Python makes of it, as `filled`, with the facts that `fact` gives here.

use tickserve_core::texts::{Entry, Fact, Name, Texts};

use crate::json::Json;

fn fact(place: usize) -> Fact<'static> {
    [
        Fact::Text("a'\n\u{20ac}"),
        Fact::Int(-7),
        Fact::Float(1e-5),
        Fact::Ints(&[1, -3]),
    ][place % 4]
}

#[test]
fn the_table_of_python_is_known_and_filled_alike() {
    let Some(path) = std::env::var_os("TICKSERVE_TEXTS") else {
        return;
    };
    let table = Json::parse(&std::fs::read_to_string(path).unwrap());
    let entry = |(name, text): (&String, &Json)| Entry {
        name: name.clone(),
        code: text.entries()["code"].text().unwrap(),
        reason: text.entries()["reason"].text(),
        template: text.entries()["template"].text().unwrap(),
        executed: text.entries()["executed"] == Json::Bool(true),
    };
    let texts = Texts::new(table.entries().iter().map(entry)).unwrap();
    for name in Name::ALL {
        let mut sorted = name.facts().to_vec();
        sorted.sort_unstable();
        let facts: Vec<_> = sorted
            .into_iter()
            .enumerate()
            .map(|(place, name)| (name, fact(place)))
            .collect();
        let expected = table.entries()[name.label()]
            .entries()
            .get("filled")
            .and_then(Json::text);
        assert_eq!(Some(texts.fill(*name, &facts)), expected, "{}", name.label());
    }
}
