//! Generates the text of a tweet, with the positions of its hashtags, mentions and links.
//!
//! Twitter counts positions in Unicode code points: an emoji outside the basic plane counts as one, an emoji built with joiners as
//! several. Every piece is therefore appended by one method that counts.

use super::random::Dice;
use super::users::{User, Users};
use super::words;

/// The most code points in a tweet.
pub(super) const MAX_CHARS: usize = 280;

/// The code points from `start` up to, but not including, `end`.
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

/// A link in a text: `https://t.co/` and a token.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) token: String,
    /// The link's target, without `https://`; a domain reserved for examples.
    pub(super) target: String,
}

/// A text, complete or under construction.
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
    /// Whether the end was cut off to fit.
    pub(super) truncated: bool,
}

impl<'a> Text<'a> {
    /// Composes a text in the language of `author`: never empty, and within the language's limit.
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
        // The stride is coprime to the length of every table, so no sentence occurs twice.
        let sentences = language.sentences;
        let first = dice.index(sentences.len());
        for nth in 0..sentences.len() {
            let sentence = sentences[(first + nth * STRIDE) % sentences.len()];
            let separator = match nth {
                0 => "",
                _ if dice.chance(15) => "\n",
                // People do not always end a sentence properly.
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

    /// The text of a retweet by `author`: `RT @author: ` and this text, cut to [`MAX_CHARS`] with an ellipsis.
    /// Hashtags, mentions and links beyond the cut are dropped too.
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

    /// Runs `add`, and undoes it if the text then exceeds `limit` code points. Returns whether it fit.
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
                // "tag": a test of `words` ensures that there is no other slot.
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
    fn texts_fit_are_not_empty_and_their_length_is_right() {
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
    fn a_piece_that_does_not_fit_is_undone() {
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
