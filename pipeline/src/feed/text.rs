//! The text of a tweet, and where in it the hashtags, mentions and links are.
//!
//! Twitter counts positions in Unicode code points: an emoji outside the basic plane is one, and one built with joiners
//! is several. So every piece goes through one place that counts.

use super::random::Dice;
use super::users::{User, Users};
use super::words;

/// The most code points of any tweet.
pub(super) const MAX_CHARS: usize = 280;

/// Code points from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    fn shifted(self, by: usize) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }
}

/// A link as it stands in a text: `https://t.co/` and a token.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) token: String,
    /// What the link stands for, without `https://`; a domain that is reserved for examples.
    pub(super) target: String,
}

/// A text under construction, or done.
#[derive(Debug, Clone, Default)]
pub(super) struct Text<'a> {
    pub(super) text: String,
    /// Its length in code points.
    pub(super) chars: usize,
    /// Hashtags in order, without `#`; the span includes it.
    pub(super) hashtags: Vec<(Span, &'static str)>,
    /// Mentioned users in order; the span includes `@`.
    pub(super) mentions: Vec<(Span, &'a User)>,
    pub(super) links: Vec<(Span, Link)>,
    /// True if the end was cut off to make it fit.
    pub(super) truncated: bool,
}

impl<'a> Text<'a> {
    /// What `author` might write. At most as long as the author's language allows, and never empty.
    pub(super) fn compose(users: &'a Users, author: &User, dice: &mut Dice) -> Self {
        let language = author.language;
        let limit = language.longest;
        let mut text = Self::default();
        let target = match dice.below(10) {
            0..=4 => dice.between(10, 60),
            5..=7 => dice.between(60, 120),
            _ => dice.between(100, limit as u64),
        } as usize;
        if dice.chance(18) {
            let other = users.popular(dice);
            if other.id != author.id {
                text.mention(other);
                text.push(" ");
            }
        }
        // A stride that has no factor in common with any table's length, so that nothing is said twice.
        let sentences = language.sentences;
        let first = dice.index(sentences.len());
        for nth in 0..sentences.len() {
            let sentence = sentences[(first + nth * STRIDE) % sentences.len()];
            let separator = match nth {
                0 => "",
                _ if dice.chance(15) => "\n",
                // As carelessly as people do it.
                _ if text.text.ends_with(char::is_alphanumeric) && dice.chance(60) => language.stop,
                _ => " ",
            };
            let fits = text.attempt(limit, |text| {
                text.push(separator);
                text.sentence(sentence, author, dice);
            });
            if !fits || text.chars >= target {
                break;
            }
        }
        if dice.chance(35) {
            for _ in 0..dice.between(1, 3) {
                let emoji = dice.pick(words::EMOJI);
                text.attempt(limit, |text| {
                    text.push(" ");
                    text.push(emoji);
                });
            }
        }
        let tags = match dice.below(100) {
            0..=61 => 0,
            62..=85 => 1,
            86..=95 => 2,
            _ => 3,
        };
        for _ in 0..tags {
            let tag = dice.pick(language.tags);
            if text.hashtags.iter().any(|(_, used)| *used == tag) {
                continue;
            }
            text.attempt(limit, |text| {
                text.push(" ");
                text.hashtag(tag);
            });
        }
        if dice.chance(18) {
            text.attempt(limit, |text| {
                text.push(" ");
                text.link(dice);
            });
        }
        text
    }

    /// What a retweet of this text by `author` says: `RT @author: ` and the text, cut to [`MAX_CHARS`] with an ellipsis.
    /// What does not fit is not among its hashtags, mentions and links either.
    pub(super) fn retweeted(&self, author: &'a User) -> Self {
        let mut text = Self::default();
        text.push("RT ");
        text.mention(author);
        text.push(": ");
        let shift = text.chars;
        text.push(&self.text);
        let mut fits = usize::MAX;
        if text.chars > MAX_CHARS {
            fits = MAX_CHARS - 1;
            let cut = text.text.char_indices().nth(fits).map_or(text.text.len(), |(at, _)| at);
            text.text.truncate(cut);
            text.chars = fits;
            text.push("…");
            text.truncated = true;
        }
        let moved = |span: Span| Some(span.shifted(shift)).filter(|span| span.end <= fits);
        text.hashtags.extend(self.hashtags.iter().filter_map(|(span, tag)| Some((moved(*span)?, *tag))));
        text.mentions.extend(self.mentions.iter().filter_map(|(span, user)| Some((moved(*span)?, *user))));
        text.links.extend(self.links.iter().filter_map(|(span, link)| Some((moved(*span)?, link.clone()))));
        text
    }

    /// Adds what `add` adds, or nothing at all if it would not fit in `limit` code points. Says which.
    fn attempt(&mut self, limit: usize, add: impl FnOnce(&mut Self)) -> bool {
        let (bytes, chars) = (self.text.len(), self.chars);
        let (hashtags, mentions, links) = (self.hashtags.len(), self.mentions.len(), self.links.len());
        add(self);
        let fits = self.chars <= limit;
        if !fits {
            self.text.truncate(bytes);
            self.chars = chars;
            self.hashtags.truncate(hashtags);
            self.mentions.truncate(mentions);
            self.links.truncate(links);
        }
        fits
    }

    fn sentence(&mut self, template: &str, author: &User, dice: &mut Dice) {
        let language = author.language;
        let mut rest = template;
        while let Some((before, slot)) = rest.split_once('{') {
            self.push(before);
            let (name, after) = slot.split_once('}').unwrap_or((slot, ""));
            match name {
                "thing" => self.push(dice.pick(language.things)),
                "good" => self.push(dice.pick(language.good)),
                "bad" => self.push(dice.pick(language.bad)),
                // "tag": a test of `words` says that there is no other.
                _ => self.hashtag(dice.pick(language.tags)),
            }
            rest = after;
        }
        self.push(rest);
    }

    fn push(&mut self, piece: &str) {
        self.text.push_str(piece);
        self.chars += piece.chars().count();
    }

    fn hashtag(&mut self, tag: &'static str) {
        let start = self.chars;
        self.push("#");
        self.push(tag);
        self.hashtags.push((Span { start, end: self.chars }, tag));
    }

    fn mention(&mut self, user: &'a User) {
        let start = self.chars;
        self.push("@");
        self.push(&user.screen_name);
        self.mentions.push((Span { start, end: self.chars }, user));
    }

    fn link(&mut self, dice: &mut Dice) {
        const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let token: String = (0..10).map(|_| char::from(LETTERS[dice.index(LETTERS.len())])).collect();
        let site = dice.pick(&[
            "example.com/news/",
            "blog.example.org/p/",
            "video.example.net/watch/",
            "shop.example.com/item/",
        ]);
        let target = format!("{site}{}", dice.between(1_000, 99_999));
        let start = self.chars;
        self.push("https://t.co/");
        self.push(&token);
        self.links.push((Span { start, end: self.chars }, Link { token, target }));
    }
}

const STRIDE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stride_reaches_every_sentence() {
        for language in words::LANGUAGES {
            assert!(!language.sentences.len().is_multiple_of(STRIDE), "{}", language.code);
        }
    }

    #[test]
    fn texts_fit_are_not_empty_and_their_length_is_counted_right() {
        let users = Users::new(1);
        for n in 0..5_000 {
            let author = users.get(n);
            let text = Text::compose(&users, author, &mut Dice::new([1, 2, 3, n]));
            assert_eq!(text.chars, text.text.chars().count());
            assert!((2..=author.language.longest).contains(&text.chars), "{}", text.text);
            assert!(!text.text.contains(['{', '}']), "{}", text.text);
            assert_eq!(text.text, text.text.trim(), "blanks at an end");
        }
    }

    #[test]
    fn a_retweet_that_is_too_long_is_cut_with_an_ellipsis_and_loses_the_hashtags_beyond() {
        let users = Users::new(1);
        let author = users.get(0);
        let mut original = Text::default();
        original.push(&"é".repeat(200));
        original.hashtag("near");
        original.push(&"é".repeat(60));
        original.hashtag("far");
        let retweet = original.retweeted(author);
        assert!(retweet.truncated);
        assert_eq!(retweet.chars, MAX_CHARS);
        assert_eq!(retweet.text.chars().count(), MAX_CHARS);
        assert!(retweet.text.ends_with('…'));
        assert_eq!(retweet.hashtags.iter().map(|(_, tag)| *tag).collect::<Vec<_>>(), ["near"]);
        let span = retweet.hashtags[0].0;
        let found: String = retweet.text.chars().skip(span.start).take(span.end - span.start).collect();
        assert_eq!(found, "#near");
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace() {
        let mut text = Text::default();
        text.push("12345");
        assert!(!text.attempt(8, |text| {
            text.push(" ");
            text.hashtag("long");
        }));
        assert_eq!((text.text.as_str(), text.chars, text.hashtags.len()), ("12345", 5, 0));
        assert!(text.attempt(8, |text| text.hashtag("ab")));
        assert_eq!(text.text, "12345#ab");
    }
}
