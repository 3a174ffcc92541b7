//! Words that nobody says: a lobby's own list, or that of the deployment. Whole words, whatever their case; one that
//! ends in `*` stands for all that begin so.

/// A list of words, made ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WordFilter {
    /// Sorted, in lower case.
    words: Vec<String>,
    beginnings: Vec<String>,
}

impl WordFilter {
    pub(crate) fn new(list: &[String]) -> Self {
        let mut filter = WordFilter::default();
        for word in list {
            let word = word.to_lowercase();
            match word.strip_suffix('*') {
                Some(beginning) => filter.beginnings.push(beginning.to_owned()),
                None => filter.words.push(word),
            }
        }
        filter.words.sort_unstable();
        filter
    }

    /// Whether a text holds one of the words.
    pub(crate) fn finds(&self, text: &str) -> bool {
        if self.words.is_empty() && self.beginnings.is_empty() {
            return false;
        }
        let text = text.to_lowercase();
        let mut words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.any(|word| {
            self.words.binary_search_by(|known| known.as_str().cmp(word)).is_ok()
                || self.beginnings.iter().any(|beginning| word.starts_with(beginning.as_str()))
        })
    }
}
