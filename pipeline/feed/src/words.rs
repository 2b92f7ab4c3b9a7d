//! The vocabulary of the simulated users, one table per language.
//!
//! In a sentence, `{thing}`, `{good}` and `{bad}` stand for an entry of the table of that name and `{tag}` for a hashtag.
//! `&amp;` is an ampersand as Twitter's API encodes it. English sentences deliberately contain many words of AFINN-111, the list by
//! which the pipeline scores, positive and negative and of every strength. Other languages contain them only where they share a
//! word with English: most of their tweets score 0, like real ones.

/// One language: the names of its speakers and their phrases.
#[derive(Debug)]
pub(super) struct Language {
    /// The BCP 47 code, as in a tweet's `lang`.
    pub(super) code: &'static str,
    /// The percentage of users who write it.
    pub(super) share: u64,
    /// The most code points in a tweet; Twitter counts the characters of some scripts double.
    pub(super) longest: usize,
    /// The separator between sentences.
    pub(super) stop: &'static str,
    /// Given names: as displayed, and in the letters allowed in a screen name.
    pub(super) given: &'static [(&'static str, &'static str)],
    /// Family names, as displayed.
    pub(super) family: &'static [&'static str],
    /// Places in users' profiles; often the empty string.
    pub(super) places: &'static [&'static str],
    /// Users' descriptions of themselves.
    pub(super) bios: &'static [&'static str],
    /// Sentences, with slots.
    pub(super) sentences: &'static [&'static str],
    /// The subjects of tweets.
    pub(super) things: &'static [&'static str],
    /// Kind words.
    pub(super) good: &'static [&'static str],
    /// Unkind words.
    pub(super) bad: &'static [&'static str],
    /// Hashtags, without `#`.
    pub(super) tags: &'static [&'static str],
}

/// All languages; their shares add up to 100.
pub(super) const LANGUAGES: &[Language] = &[ENGLISH, JAPANESE, SPANISH, PORTUGUESE, ARABIC, FRENCH, ROMANIAN, GERMAN];

/// The language of the user with this number, from 0 to 99.
pub(super) fn language(mut percentile: u64) -> &'static Language {
    for language in LANGUAGES {
        if percentile < language.share {
            return language;
        }
        percentile -= language.share;
    }
    &LANGUAGES[0]
}

/// Emoji of one code point and of several (variation selector, skin tone, joiner, flag), because positions in tweets count code
/// points.
pub(super) const EMOJI: &[&str] = &[
    "😂",
    "😭",
    "❤️",
    "😍",
    "🙏",
    "🔥",
    "✨",
    "😊",
    "🎉",
    "💔",
    "👍🏽",
    "🤷‍♀️",
    "😡",
    "☀️",
    "🥰",
    "💪",
    "🇷🇴",
    "🇧🇷",
    "🐈",
    "☕",
    "🎶",
    "👀",
    "😅",
    "⚽",
];

const ENGLISH: Language = Language {
    code: "en",
    share: 38,
    longest: 280,
    stop: ". ",
    given: &[
        ("Alice", "alice"),
        ("Ben", "ben"),
        ("Chloe", "chloe"),
        ("Daniel", "daniel"),
        ("Ella", "ella"),
        ("Finn", "finn"),
        ("Grace", "grace"),
        ("Harvey", "harvey"),
        ("Isla", "isla"),
        ("Jack", "jack"),
        ("Kayla", "kayla"),
        ("Liam", "liam"),
        ("Maya", "maya"),
        ("Noah", "noah"),
        ("Olive", "olive"),
        ("Priya", "priya"),
    ],
    family: &[
        "Baker", "Carter", "Doyle", "Fletcher", "Hughes", "Marsh", "Nolan", "Okafor", "Patel", "Reed", "Shaw",
        "Winters",
    ],
    places: &[
        "",
        "",
        "London",
        "Austin, TX",
        "Manchester",
        "somewhere over the rainbow",
        "Lagos",
        "Sydney",
        "Toronto",
        "she/her · Leeds",
    ],
    bios: &[
        "",
        "coffee first, opinions later",
        "dad of two, fan of one (football) club",
        "I tweet about books & bad weather",
        "all views my own. dogs > people",
        "photographer | \"it depends\" | tea",
        "writing code, breaking code, repeat",
        "here for the memes",
    ],
    sentences: &[
        "I love {thing} so much",
        "I really hate {thing} today.",
        "{thing} is {good}!",
        "{thing} is just {bad}.",
        "Honestly, {thing} was {good} and nobody talks about it",
        "why is {thing} always so {bad}?",
        "Can't believe how {bad} {thing} was last night",
        "thank you all for {thing}, this makes me so happy",
        "Good morning everyone! Time for {thing} &amp; coffee.",
        "worst day ever: {thing} and then more {bad} news",
        "new post about {thing} is up",
        "anyone else thinking about {thing} at 3am?",
        "My mum says {thing} is {good}, my dad says {bad}. So that's settled.",
        "Just watched a film about {thing}. {good}, go and see it.",
        "I miss {thing}",
        "Happy birthday to the most {good} person I know",
        "Lost my keys, missed the bus, and {thing} is {bad}. Great start.",
        "Not gonna lie, {thing} looks {good} from here",
        "so proud of what we did with {thing}, best team",
        "{thing} again? No. Stop. Please.",
        "Help: is {thing} {good} or {bad}? asking for a friend",
        "We won!!! {thing} was {good}",
        "The problem with {thing} is the lies | the waiting | the price",
        "\"{thing}\" they said. \"{good}\", they said.",
        "Things to do:\n- {thing}\n- sleep\n- be kind",
        "still tired, still sad, still here for {thing}",
        "I was wrong about {thing}; sorry",
        "who wants to talk about {tag} with me",
        "this {tag} thing is {good}",
    ],
    things: &[
        "the new album",
        "my cat",
        "Monday",
        "the train",
        "this game",
        "pizza",
        "the weather",
        "my phone",
        "the match",
        "school",
        "the garden",
        "that ending",
        "public transport",
        "homework",
        "the election",
        "my sister's wedding",
        "breakfast",
        "Rust",
        "the gym",
        "working from home",
        "the traffic",
        "their customer service",
        "a long walk",
        "the season finale",
    ],
    good: &[
        "good",
        "great",
        "amazing",
        "awesome",
        "beautiful",
        "brilliant",
        "fantastic",
        "fun",
        "lovely",
        "nice",
        "outstanding",
        "perfect",
        "superb",
        "wonderful",
        "hilarious",
        "cool",
        "breathtaking",
        "adorable",
        "excellent",
        "sweet",
    ],
    bad: &[
        "bad",
        "terrible",
        "awful",
        "boring",
        "broken",
        "disappointing",
        "disgusting",
        "horrible",
        "sad",
        "stupid",
        "ugly",
        "annoying",
        "pathetic",
        "useless",
        "scary",
        "painful",
        "weird",
        "wrong",
        "dead",
        "tragic",
    ],
    tags: &[
        "MondayMotivation",
        "NowPlaying",
        "rustlang",
        "football",
        "FridayFeeling",
        "caturday",
        "love",
        "fail",
        "foodie",
        "tbt",
        "news",
        "GameNight",
        "BookClub",
        "climate",
        "photography",
    ],
};

const JAPANESE: Language = Language {
    code: "ja",
    share: 18,
    longest: 140,
    stop: "。",
    given: &[
        ("さくら", "sakura"),
        ("はると", "haruto"),
        ("ゆい", "yui"),
        ("そうた", "sota"),
        ("葵", "aoi"),
        ("蓮", "ren"),
        ("ひなた", "hinata"),
        ("みお", "mio"),
        ("りく", "riku"),
        ("凛", "rin"),
    ],
    family: &["🌸", "@低浮上", "佐々木", "高橋", "ちゃん", "(本物)", "森", "くん", "中村", "bot"],
    places: &["", "", "東京", "大阪府", "北海道", "日本のどこか", "お布団の中"],
    bios: &[
        "",
        "無言フォロー失礼します",
        "猫とゲームと音楽が好き。気軽に話しかけてね！",
        "社会人3年目｜写真｜旅",
        "アニメ垢です",
        "毎日ねむい",
    ],
    sentences: &[
        "{thing}が{good}！",
        "{thing}、正直{bad}…",
        "おはようございます☀ 今日も{thing}から始めます",
        "今日の{thing}、{good}…！",
        "{thing}って{bad}よね？わかる人いる？",
        "明日は{thing}。早く寝なきゃ",
        "もう{thing}のことしか考えられない",
        "{thing}が終わらない。{bad}",
        "【お知らせ】{thing}を更新しました",
        "{tag} 参加します！",
        "え、{thing}…？（二度見）",
        "ありがとうございました、{thing}{good}です",
        "朝:{thing}\n昼:{thing}\n夜:ねる",
    ],
    things: &[
        "ラーメン",
        "テスト",
        "猫",
        "電車",
        "新曲",
        "ライブ",
        "仕事",
        "アニメ",
        "お弁当",
        "雨",
        "花火",
        "ゲーム",
        "部活",
        "コーヒー",
    ],
    good: &["最高", "楽しい", "かわいい", "天才", "うれしい", "おいしい", "すごい"],
    bad: &["つらい", "ひどい", "こわい", "かなしい", "無理", "しんどい", "つまらない"],
    tags: &["猫", "ラーメン部", "おはようVtuber", "写真好きな人と繋がりたい", "今日の積み上げ", "アニメ", "NowPlaying"],
};

const SPANISH: Language = Language {
    code: "es",
    share: 13,
    longest: 280,
    stop: ". ",
    given: &[
        ("Lucía", "lucia"),
        ("Martín", "martin"),
        ("Sofía", "sofia"),
        ("Mateo", "mateo"),
        ("Carmen", "carmen"),
        ("Íñigo", "inigo"),
        ("Valentina", "valen"),
        ("Nicolás", "nico"),
    ],
    family: &["Álvarez", "Castro", "Domínguez", "Herrera", "Muñoz", "Peña", "Rojas", "Vega"],
    places: &["", "Madrid", "Buenos Aires", "CDMX", "Bogotá, Colombia", "Sevilla"],
    bios: &[
        "",
        "Periodista en prácticas",
        "Del mar y del mate",
        "Lo importante es la actitud",
        "Ingeniera, runner, madre de gatos",
    ],
    sentences: &[
        "¡Qué {good} es {thing}!",
        "No soporto {thing}, de verdad, es {bad}",
        "Buenos días a todos, hoy toca {thing}",
        "{thing} me parece {bad}. No pienso decir más.",
        "Si alguien encuentra {thing}, que me avise, por favor",
        "¿Soy yo o {thing} es {good}?",
        "Nada como {thing} un domingo por la tarde",
        "Gracias por {thing}, sois lo mejor",
        "Tengo sueño y todavía me queda {thing}",
        "Hoy en {tag}: {thing}",
    ],
    things: &[
        "el partido",
        "la lluvia",
        "el metro",
        "mi abuela",
        "la nueva canción",
        "el examen",
        "la siesta",
        "esta serie",
        "el café",
        "el tráfico",
    ],
    good: &["genial", "increíble", "brutal", "excelente", "impresionante", "fenomenal", "super"],
    bad: &["horrible", "terrible", "triste", "fatal", "insoportable", "un desastre", "una pena"],
    tags: &["FelizLunes", "LaLiga", "música", "España", "buenosdías", "cine", "Gol"],
};

const PORTUGUESE: Language = Language {
    code: "pt",
    share: 10,
    longest: 280,
    stop: ". ",
    given: &[
        ("João", "joao"),
        ("Beatriz", "bia"),
        ("Thiago", "thiago"),
        ("Inês", "ines"),
        ("Rafaela", "rafa"),
        ("Gonçalo", "goncalo"),
        ("Camila", "camila"),
        ("Luís", "luis"),
    ],
    family: &["Almeida", "Barbosa", "Conceição", "Figueiredo", "Magalhães", "Nunes", "Souza"],
    places: &["", "São Paulo", "Rio de Janeiro", "Lisboa", "Porto", "Salvador - BA"],
    bios: &[
        "",
        "flamenguista até morrer",
        "só queria dormir",
        "estudante de direito, café e gatos",
        "20 | arte | praia",
    ],
    sentences: &[
        "gente, {thing} é {good} demais",
        "que {bad} {thing}, não aguento mais",
        "bom dia pra quem já acordou pensando em {thing}",
        "{thing}: que saudade, viu",
        "alguém me explica {thing}?",
        "hoje teve {thing} e foi {good}!!",
        "kkkkkk {thing} nunca decepciona",
        "eu: vou estudar\ntambém eu: {thing}",
        "quem mais acha {thing} {bad}?",
        "{tag} vamos com tudo",
    ],
    things: &[
        "o jogo",
        "o ônibus",
        "minha mãe",
        "esse filme",
        "a praia",
        "o calor",
        "essa música",
        "a prova",
        "pão de queijo",
        "o carnaval",
    ],
    good: &["incrível", "maravilhoso", "lindo", "perfeito", "ótimo", "top"],
    bad: &["horrível", "chato", "péssimo", "triste", "ridículo", "cansativo"],
    tags: &["BBB", "Brasileirão", "sextou", "música", "Benfica", "bomdia", "SóNoBrasil"],
};

const ARABIC: Language = Language {
    code: "ar",
    share: 8,
    longest: 280,
    stop: ". ",
    given: &[
        ("محمد", "mohamed"),
        ("فاطمة", "fatima"),
        ("يوسف", "yousef"),
        ("ليلى", "layla"),
        ("عمر", "omar"),
        ("نور", "nour"),
    ],
    family: &["الحربي", "المصري", "العلي", "حداد", "الشريف", "منصور"],
    places: &["", "الرياض", "القاهرة", "بيروت", "الدار البيضاء"],
    bios: &["", "أحب القراءة والقهوة", "اللهم لك الحمد", "مهندس | مشجع كرة قدم"],
    sentences: &[
        "صباح الخير، اليوم {thing} {good}",
        "{thing} {bad} جدا",
        "من يحب {thing}؟",
        "لا أستطيع النوم بسبب {thing}",
        "الحمد لله على {thing}",
        "شاهدت {thing} أمس، {good}!",
        "هل {thing} {bad} أم أنا فقط؟",
        "{tag} الآن",
    ],
    things: &["القهوة", "المباراة", "الامتحان", "المطر", "هذا الفيلم", "العمل", "البحر", "الأغنية الجديدة"],
    good: &["جميل", "رائع", "ممتاز", "مذهل"],
    bad: &["سيء", "ممل", "حزين", "مزعج"],
    tags: &["صباح_الخير", "الهلال", "رمضان", "شعر", "مصر"],
};

const FRENCH: Language = Language {
    code: "fr",
    share: 6,
    longest: 280,
    stop: ". ",
    given: &[
        ("Chloé", "chloe"),
        ("Étienne", "etienne"),
        ("Manon", "manon"),
        ("Hugo", "hugo"),
        ("Zoé", "zoe"),
        ("Baptiste", "baptiste"),
    ],
    family: &["Lefèvre", "Moreau", "Garnier", "Dubois", "Chevalier", "Roux"],
    places: &["", "Paris", "Lyon", "Marseille", "Bruxelles", "Québec"],
    bios: &[
        "",
        "Râleuse professionnelle",
        "Prof d'histoire-géo, papa, cycliste",
        "« On verra bien »",
        "RT ≠ approbation",
    ],
    sentences: &[
        "franchement, {thing}, c'est {good}",
        "encore {thing} ce matin… {bad}",
        "Bonjour à tous ! Aujourd'hui : {thing}",
        "{thing}, j'en peux plus",
        "qui a vu {thing} hier soir ? {good} !",
        "Merci pour {thing}, ça fait du bien",
        "{thing} : {good} ou {bad} ? Vous avez 4 heures.",
        "on parle de {tag} ou bien",
    ],
    things: &[
        "la grève",
        "le RER",
        "ce film",
        "la météo",
        "le match",
        "mon chat",
        "la raclette",
        "le bac",
        "cette chanson",
    ],
    good: &["excellent", "superbe", "magnifique", "incroyable", "top", "adorable", "fun"],
    bad: &["horrible", "terrible", "nul", "triste", "pénible", "pathétique", "stupide"],
    tags: &["LundiMatin", "Ligue1", "cinéma", "SNCF", "musique", "Élysée"],
};

const ROMANIAN: Language = Language {
    code: "ro",
    share: 4,
    longest: 280,
    stop: ". ",
    given: &[
        ("Andrei", "andrei"),
        ("Ioana", "ioana"),
        ("Ștefan", "stefan"),
        ("Mădălina", "mada"),
        ("Vlad", "vlad"),
        ("Anca", "anca"),
    ],
    family: &["Popa", "Țurcanu", "Munteanu", "Rusu", "Ciobanu", "Bălan"],
    places: &["", "Chișinău", "București", "Iași", "Cluj-Napoca"],
    bios: &["", "student la FAF", "cafea, cărți, ploaie", "cetățean al internetului"],
    sentences: &[
        "ce {good} e {thing}!",
        "{thing} e {bad}, nu mai pot",
        "Bună dimineața! Azi: {thing}",
        "cineva care înțelege {thing}?",
        "doar {thing} în minte azi",
        "două ore la coadă și {thing} tot {bad}.",
        "{thing} a fost super, mulțumesc",
        "{tag} e peste tot azi",
    ],
    things: &[
        "troleibuzul",
        "sesiunea",
        "cafeaua",
        "vremea",
        "meciul",
        "filmul ăsta",
        "laboratorul",
        "marea",
        "zacusca bunicii",
    ],
    good: &["frumos", "genial", "minunat", "super", "perfect", "mișto"],
    bad: &["urât", "trist", "groaznic", "plictisitor", "oribil"],
    tags: &["Moldova", "Chișinău", "București", "sesiune", "vacanță", "muzică"],
};

const GERMAN: Language = Language {
    code: "de",
    share: 3,
    longest: 280,
    stop: ". ",
    given: &[("Jürgen", "juergen"), ("Lena", "lena"), ("Sören", "soeren"), ("Käthe", "kaethe"), ("Moritz", "moritz")],
    family: &["Großmann", "Müller", "Schäfer", "Vogt", "Weiß"],
    places: &["", "Berlin", "Hamburg", "Wien", "Zürich"],
    bios: &["", "Meinungen sind meine eigenen", "Brot ist wichtig", "Radfahrerin. Manchmal Bahn."],
    sentences: &[
        "{thing} ist heute wirklich {good}",
        "Warum ist {thing} eigentlich immer so {bad}?",
        "Guten Morgen! Erst mal {thing}.",
        "{thing}: wer war dabei? War {good}!",
        "Ich sag nur: {thing}. {bad}.",
        "{thing}? Danke, ihr seid super",
        "Heute bei {tag}: {thing}",
    ],
    things: &[
        "die Bahn",
        "das Wetter",
        "mein Fahrrad",
        "der Tatort",
        "das Brot",
        "die Steuererklärung",
        "das Spiel",
        "der Kaffee",
    ],
    good: &["super", "schön", "toll", "fantastisch", "perfekt", "cool"],
    bad: &["schlecht", "traurig", "furchtbar", "peinlich", "kaputt"],
    tags: &["tatort", "Bundesliga", "DieBahn", "Wetter", "straßenfotografie"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_no_table_is_empty() {
        assert_eq!(LANGUAGES.iter().map(|l| l.share).sum::<u64>(), 100);
        for l in LANGUAGES {
            for table in [l.family, l.places, l.bios, l.sentences, l.things, l.good, l.bad, l.tags] {
                assert!(!table.is_empty(), "{}", l.code);
            }
            assert!(!l.given.is_empty(), "{}", l.code);
            assert!((100..=280).contains(&l.longest), "{}", l.code);
        }
    }

    #[test]
    fn slots_are_the_four_known_ones() {
        for sentence in LANGUAGES.iter().flat_map(|l| l.sentences) {
            for slot in sentence.split('{').skip(1) {
                let name = slot.split_once('}').map(|(name, _)| name);
                assert!(matches!(name, Some("thing" | "good" | "bad" | "tag")), "unknown slot in {sentence:?}");
            }
        }
    }

    #[test]
    fn a_screen_name_has_room_for_a_number_after_the_given_name() {
        for (_, latin) in LANGUAGES.iter().flat_map(|l| l.given) {
            assert!(latin.len() <= 9 && latin.bytes().all(|b| b.is_ascii_lowercase()), "{latin}");
        }
    }

    #[test]
    fn hashtags_are_words() {
        for tag in LANGUAGES.iter().flat_map(|l| l.tags) {
            assert!(tag.chars().all(|c| c.is_alphanumeric() || c == '_'), "{tag}");
        }
    }

    #[test]
    fn percentiles_map_to_languages() {
        assert_eq!(language(0).code, "en");
        assert_eq!(language(37).code, "en");
        assert_eq!(language(38).code, "ja");
        assert_eq!(language(99).code, "de");
    }
}
