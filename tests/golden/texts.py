"""The texts of the goldens. All of them were written for this repository."""
import csv
import os

HERE = os.path.dirname(os.path.abspath(__file__))
REVIEWS = os.path.join(HERE, "..", "..", "examples", "data", "reviews.csv")

# The literal special tokens differ from one family to the next; the rest is the same everywhere.
SPECIAL_IN_TEXT = {
    "bert": "the [MASK] was [PAD] better [SEP] than [UNK] the [CLS] book",
    "roberta": "the <mask> was <pad> better </s> than <unk> the <s> book",
}


def golden_texts(family):
    """Ten texts; number 6 contains special tokens of the `family` (bert or roberta)."""
    return [
        "",
        "Harbour",
        'Really?! (Yes.) "Fine"; 100%',
        "Crème à Kraków, ΔΡΟΜΟΣ, 房间 שלום غرفة 🙂👍🏽",
        "  two  spaces \t and a tab  ",
        "first line\nsecond line",
        SPECIAL_IN_TEXT[family],
        "The little inn by the harbour was quiet, bright and very clean, and the bread was still warm. " * 3,
        "The film is slow at first, and then you cannot look away.",
        "I bought one for my sister too.",
    ]


# Strings for tokenizers alone: ids are compared exactly, without truncation.
NASTY = [
    "", " ", "   ", "\n", "\t \t", "\r\n", "a", "A", "É", "ß", "ẞ", "İstanbul ı", "ΟΔΟΣ ΣΑΣ", "ǅungla ŉ ĳ",
    "The quick brown fox, aged 7, doesn't jump over 3.14 lazy dogs.",
    "It's they're we've I'm you'd she'll 'quoted' IT'S",
    "  leading and trailing  ", "double  spaces   and    more", "tab\tand\nnewline\r\nand\x0bvertical\x0cform feed",
    "non\u00a0breaking\u2003em\u2009thin\u3000ideographic space", "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060word",
    "control \x00 null \x01 soh \x07 bell \x1b escape \x7f delete \x85 next line", "soft\u00adhyphen \ufffd replacement",
    "line\u2028separator\u2029paragraph", "\u202eright to left override\u202c",
    "café cafe\u0301 CAFÉ CAFE\u0301", "o\u0308\u0323\u0331 stacked a\u030a\u0301", "\u0301starts with a mark", "Ångström K ℵ ﬁ ﬂ ﬃ ½ № ™ ² ₂",
    "Ｆｕｌｌ　ｗｉｄｔｈ　１２３！", "ｶﾀｶﾅ ガ カ\u3099", "房间干净安静，窗外就是大海。", "静かで、心に残る映画でした。", "한국어 조용하지만 오래 남는 \u1112\u1161\u11ab",
    "𠀀𠮷 rare 㐂 ideographs 〇", "การเดินทาง ไม่มีช่องว่าง", "एक सरल और सुंदर फ़िल्म।", "فيلم بسيطٌ وجميلٌ يبقى في الذاكرة ١٢٣", "סרט קטן עם לב גדול שָׁלוֹם",
    "Тихий и очень добрый фильм, ёлка Ёж", "Μια ταινία γεμάτη φως", "mixed English и русский 和中文 مع العربية in one line", "abc中def文ghi",
    "🙂", "👩‍👩‍👧‍👦 family", "👍🏽👍🏿", "🇵🇹🇩🇪", "❤️ ❤", "1️⃣ keycap", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f flag", "¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻",
    "a" * 99, "a" * 100, "a" * 101, "b" * 150 + " after", "Donaudampfschifffahrtsgesellschaftskapitänskajütenschlüssel",
    "1234567890 1,234,567.89 0x1F 1e-10 -5 +3 ½ Ⅻ ٣", "https://example.org/reviews?id=7&lang=en#top", "guest.217@example.com @host #clean",
    "[CLS] [SEP] [PAD] [UNK] [MASK] [mask] [ MASK ] [MASK]x x[MASK]", "<s> </s> <pad> <unk> <mask> <MASK> < mask > <mask>x x<mask> <s>NOTUSED",
    "a <mask>  b  <mask>", "[PAD][PAD]", "##ing ##s # #s ▁under ▁▁two Ġspace Ċ", "\\ backslash 'single' \"double\" `tick` ´acute ’curly “quotes” «guillemets»",
    "<b>bold</b> &amp; {json: [1, 2]} $x_1^2$ a|b ~ ^ _under_score_", "...?!?!—–-‐‑ … • · ¡¿", "ｈａｌｆ…full。．,，",
    "SHOUTING and CamelCase and snake_case and kebab-case", "hmmmmmmmmm brrrrr pfffff", "\u0130\u0131 \u01c4 \u1e9e \ufb03 \u2126 \u212b",
    "\ue000 private use \uf8ff", "\U0001f9d1\u200d\U0001f4bb\ufe0f", "ends with space ", " starts with space",
]


def corpus(languages=None):
    """Training texts of the tiny tokenizers: the sample rows, in some or all languages."""
    with open(REVIEWS, newline="", encoding="utf-8") as f:
        return [row["text"] for row in csv.DictReader(f)
                if row["text"].strip() and (languages is None or row["lang"] in languages)]
