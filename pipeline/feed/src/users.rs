//! The people of the simulated feed: a fixed population for each seed.
//!
//! A user is a pure function of seed and number and never changes, so storing one again changes nothing. The numbers of followers
//! have the long tail of real ones: most users have some hundreds, a few have millions, and about one in 25 has none. For these an
//! engagement score must not divide by zero.

use std::sync::OnceLock;

use super::json;
use super::random::Dice;
use super::time::{EPOCH_SECONDS, push_created_at};
use super::words::{self, Language};

/// The number of users. Rendered, each takes about 1.3 kB, all of them about 4 MB.
pub(super) const POPULATION: u64 = 3_000;

/// Keeps the dice for users independent of those for tweets.
const SALT: u64 = 0x7573_6572;

/// Each user's id lies in a band of this width of its own, which makes ids unique.
const ID_BAND: u64 = 999_983;

/// One simulated user.
#[derive(Debug)]
pub(super) struct User {
    /// The index in the population.
    pub(super) number: u64,
    /// Twitter's numeric user id, 9 or 10 digits.
    pub(super) id: u64,
    /// The displayed name, in the script of the user's language.
    pub(super) name: String,
    /// The name after `@`: ASCII, at most 15 characters, unique.
    pub(super) screen_name: String,
    /// The number of followers; may be 0.
    pub(super) followers: u64,
    /// The language that the user writes.
    pub(super) language: &'static Language,
    /// The whole user object of the v1.1 API, as JSON.
    pub(super) json: String,
}

impl User {
    fn new(seed: u64, number: u64) -> Self {
        let mut dice = Dice::new([seed, SALT, number, 0]);
        let language = words::language(dice.below(100));
        let (given, latin) = language.given[dice.index(language.given.len())];
        let family = dice.pick(language.family);
        let name = match dice.below(10) {
            0..=5 => format!("{given} {family}"),
            6..=7 => given.to_owned(),
            8 => format!("{given} {}", dice.pick(words::EMOJI)),
            _ => format!("✨{given}✨"),
        };
        // The only digits are the user's number, so screen names are unique; 9 + 1 + 4 characters fit into 15.
        let screen_name = match dice.below(3) {
            0 => format!("{latin}{number}"),
            1 => format!("{latin}_{number}"),
            _ => format!("{number}{latin}"),
        };
        let followers = if dice.chance(4) {
            0
        } else {
            // The sum of three dice gives most users a bell curve; the long tail adds the celebrities.
            let digits = 2 + dice.below(4) + dice.below(4) + dice.below(4);
            dice.long_tail(digits as u32, 25)
        };
        let mut user = Self {
            number,
            id: 100_000_000 + number * ID_BAND + dice.below(ID_BAND),
            name,
            screen_name,
            followers,
            language,
            json: String::new(),
        };
        user.render(&mut dice);
        user
    }

    /// Writes the user object, with the fields of the real feed in their order.
    fn render(&mut self, dice: &mut Dice) {
        let mut out = String::with_capacity(1_400);
        let language = self.language;
        out.push_str("{\"id\":");
        json::push_u64(&mut out, self.id);
        out.push_str(",\"id_str\":\"");
        json::push_u64(&mut out, self.id);
        out.push_str("\",\"name\":");
        json::push_str(&mut out, &self.name);
        out.push_str(",\"screen_name\":");
        json::push_str(&mut out, &self.screen_name);
        out.push_str(",\"location\":");
        json::push_str(&mut out, dice.pick(language.places));
        out.push_str(",\"description\":");
        json::push_str(&mut out, dice.pick(language.bios));
        out.push_str(",\"url\":null,\"entities\":{\"description\":{\"urls\":[]}},\"protected\":false");
        json::field_u64(&mut out, "followers_count", self.followers);
        json::field_u64(&mut out, "friends_count", dice.long_tail(7, 13));
        json::field_u64(&mut out, "listed_count", self.followers / 150);
        out.push_str(",\"created_at\":\"");
        // Between about 13 years and 3 months before the first tweet.
        push_created_at(&mut out, EPOCH_SECONDS - dice.between(90 * 86_400, 13 * 365 * 86_400));
        out.push('"');
        json::field_u64(&mut out, "favourites_count", dice.long_tail(9, 17));
        out.push_str(",\"utc_offset\":null,\"time_zone\":null");
        json::field_bool(&mut out, "geo_enabled", dice.chance(30));
        json::field_bool(&mut out, "verified", self.followers > 100_000 && dice.chance(70));
        json::field_u64(&mut out, "statuses_count", 1 + dice.long_tail(10, 18));
        out.push_str(",\"lang\":\"");
        out.push_str(language.code);
        out.push_str(
            "\",\"contributors_enabled\":false,\"is_translator\":false,\"is_translation_enabled\":false,\
             \"profile_background_color\":\"",
        );
        let color = dice.pick(&["C0DEED", "000000", "F5F8FA", "131516", "9AE4E8"]);
        out.push_str(color);
        out.push_str(
            "\",\"profile_background_image_url\":\"http://abs.twimg.com/images/themes/theme1/bg.png\",\
             \"profile_background_image_url_https\":\"https://abs.twimg.com/images/themes/theme1/bg.png\",\
             \"profile_background_tile\":false,\
             \"profile_image_url\":\"http://abs.twimg.com/sticky/default_profile_images/default_profile_normal.png\",\
             \"profile_image_url_https\":\"https://abs.twimg.com/sticky/default_profile_images/default_profile_normal.png\",\
             \"profile_link_color\":\"1DA1F2\",\"profile_sidebar_border_color\":\"C0DEED\",\
             \"profile_sidebar_fill_color\":\"DDEEF6\",\"profile_text_color\":\"333333\",\
             \"profile_use_background_image\":true",
        );
        json::field_bool(&mut out, "default_profile", dice.chance(60));
        out.push_str(
            ",\"default_profile_image\":true,\"following\":false,\"follow_request_sent\":false,\"notifications\":false}",
        );
        self.json = out;
    }
}

/// The population of one seed. A user is generated when it is first needed.
#[derive(Debug)]
pub(super) struct Users {
    seed: u64,
    made: Vec<OnceLock<User>>,
}

impl Users {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, made: (0..POPULATION).map(|_| OnceLock::new()).collect() }
    }

    /// The user with this number, which is taken modulo the population.
    pub(super) fn get(&self, number: u64) -> &User {
        let number = number % POPULATION;
        // The remainder is below `POPULATION`, so it fits.
        self.made[number as usize].get_or_init(|| User::new(self.seed, number))
    }

    /// A random author. The square of a uniform number makes a few users write most tweets.
    pub(super) fn author(&self, dice: &mut Dice) -> &User {
        let bound = dice.below(POPULATION) + 1;
        self.get(dice.below(bound))
    }

    /// A random user to be retweeted: of three, the one with the most followers.
    pub(super) fn popular(&self, dice: &mut Dice) -> &User {
        let [a, b, c] = [(); 3].map(|()| self.author(dice));
        let ab = if a.followers >= b.followers { a } else { b };
        if ab.followers >= c.followers { ab } else { c }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all(seed: u64) -> (Users, Vec<u64>) {
        (Users::new(seed), (0..POPULATION).collect())
    }

    #[test]
    fn names_and_ids_are_unique_and_well_formed() {
        let (users, numbers) = all(1);
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for n in numbers {
            let user = users.get(n);
            assert!(names.insert(&user.screen_name), "{} twice", user.screen_name);
            assert!(ids.insert(user.id), "{} twice", user.id);
            assert!(user.screen_name.len() <= 15, "{}", user.screen_name);
            assert!((9..=10).contains(&user.id.to_string().len()), "{}", user.id);
        }
    }

    #[test]
    fn followers_have_a_long_tail_that_begins_at_zero() {
        let (users, numbers) = all(2);
        let mut followers: Vec<u64> = numbers.iter().map(|n| users.get(*n).followers).collect();
        followers.sort_unstable();
        let none = followers.iter().filter(|f| **f == 0).count();
        assert!((60..=200).contains(&none), "{none} without followers");
        let median = followers[followers.len() / 2];
        assert!((50..2_000).contains(&median), "median {median}");
        let most = followers[followers.len() - 1];
        assert!(most > 200 * median, "most {most}, median {median}");
        assert!(most < 34_000_000, "{most}");
    }

    #[test]
    fn a_user_is_the_same_whenever_it_is_looked_at_and_differs_between_seeds() {
        assert_eq!(User::new(5, 77).json, User::new(5, 77).json);
        assert_ne!(User::new(5, 77).json, User::new(6, 77).json);
    }

    #[test]
    fn the_object_is_json_and_says_what_the_struct_says() {
        let (users, numbers) = all(3);
        for n in numbers.into_iter().step_by(17) {
            let user = users.get(n);
            let value: serde_json::Value = serde_json::from_str(&user.json).unwrap();
            assert_eq!(value["id"], user.id);
            assert_eq!(value["id_str"], user.id.to_string());
            assert_eq!(value["name"], user.name);
            assert_eq!(value["screen_name"], user.screen_name);
            assert_eq!(value["followers_count"], user.followers);
        }
    }
}
