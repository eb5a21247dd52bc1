"""Golden tokens for test_tokenizer.c, by the `tokenizers` library of Hugging Face and `tiktoken`.

    python3 -m venv /tmp/tokenizers && /tmp/tokenizers/bin/pip install tokenizers==0.23.3 tiktoken==0.14.0
    /tmp/tokenizers/bin/python tests/reference/make_tokenizer_fixtures.py

writes fixtures/tokenizer/ anew: texts that are hard to cut into words, a tokenizer.json for each pattern that the library
has trained on them, variants of it, and for each the tokens of each text, as the library gives them. Equal tokens one after
the other are written ID*COUNT. Bytes that are no UTF-8 cannot be given to the library: what lies between them is, and
each of them is the token of its byte. A second run writes the same files.
"""
import base64
import itertools
import json
import pathlib
import unicodedata

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "tokenizer"
VOCABULARY = 700
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + CONTRACTIONS,
                  r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" + CONTRACTIONS,
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
            r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def categories():
    """Code points of every general category, as Unicode 14 has them, in several surroundings."""
    of = {}
    for point in range(0x110000):
        character = chr(point)
        category = unicodedata.category(character)
        if category != "Cs" and (category != "Cn" or point in (0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0x378, 0x530, 0xE0FFF)):
            of.setdefault(category, []).append(character)
    lines = []
    for category, characters in sorted(of.items()):
        step = max(1, len(characters) // 5)
        for c in characters[::step][:5] + characters[-1:]:
            lines.append(f"{c} x{c} {c}x 1{c}1 {c}{c}  {c}'s {c}.{c}")
    return "\n".join(lines) + "\n"


TEXTS = {
    "categories.txt": categories(),
    "emoji.txt": "👨‍👩‍👧‍👦 👩🏽‍🚀👩🏽‍🚀 🏳️‍🌈🏴‍☠️ 🇩🇪🇫🇷🇺🇳 1️⃣2️⃣#️⃣ ❤️❤ ☺︎☺️ 🧑🏻‍🤝‍🧑🏿 text👍🏿text 👍👍👍👍\u200d\n",
    "marks.txt": "e\u0301a\u0300o\u0308 é à ö  Z\u0351\u036b\u0343a\u0363l\u0368g\u0321o\u0489  q\u0307\u0323 q\u0323\u0307 "
                 "\u1112\u1161\u11ab\u1100\u1173\u11af 한글 \u0958 \u2126 \uf900 \ufb01 \u0344 \u0041\u030a \u212b \u0301x "
                 "\u0915\u094d\u0937\u093f नि กำ ก\u0e33 \u05e9\u05c1 \ufb2a a\u200db a\u200cb\ue000\u0323\n",
    "lines.txt": "a\nb\r\nc\rd\n\ne\r\n\r\nf \n g\n  h\t\n\ti  \r\n\r\n \n\n\n   j\n\n \nk\u2028l\u2029m\x85n\x0bo\x0cp\n\r\nq. \n.\r\n",
    "controls.txt": "a\0b\0\0c \0 \x01\x02 \x1b[31mred\x1b[0m\x7f \u200b\ufeff\u202e\u2066 \x9f\xad end\0",
    "digits.txt": "0 12 345 6789 01234567890123456789 1,234,567.89 3.14 1e-9 0x1F v2.0 ٠١٢٣٤ ०१२३ ⅫⅣ ½¼ x² ①②③ 𝟘𝟙𝟚 一二三 "
                  "2024-01-31T23:59 1st 2nd a1b22c333d4444 \u0660\u0661x 9 99 999 9999\n",
    "contractions.txt": "I'm you're he's she'll we've they'd don't I'M YOU'RE HE'S SHE'LL WE'VE THEY'D DON'T 'tis 's 'S '' ''s "
                        "rock'n'roll it’s it`s 'ſ 'K x'sy 'llama 'Ré a'ſb 'Da o'DAy 'REAL\n's\n't  're\t've\n",
    "scripts.txt": "All human beings are born free and equal in dignity and rights.\nAlle Menschen sind frei und gleich an "
                   "Würde und Rechten geboren.\nTous les êtres humains naissent libres et égaux.\nВсе люди рождаются "
                   "свободными и равными.\nΌλοι οι άνθρωποι γεννιούνται ελεύθεροι.\n人人生而自由,在尊严和权利上一律平等。\nすべての人間は、"
                   "生まれながらにして自由であり。\n모든 인간은 태어날 때부터 자유로우며.\nيولد جميع الناس أحرارًا متساوين.\nכל בני האדם נולדו "
                   "בני חורין.\nसभी मनुष्यों को गौरव और अधिकारों.\nมนุษย์ทั้งหลายเกิดมามีอิสระ\nமனிதப் பிறிவியினர் சகலரும்.\nყველა "
                   "ადამიანი იბადება თავისუფალი.\nԲոլոր մարդիկ ծնվում են ազատ։\nየሰው ልጅ ሁሉ ሲወለድ ነጻ።\nTất cả mọi người sinh ra "
                   "đều được tự do.\nİnsanlar hür doğar, ıssız.\nǅungla ǈubav ǋegoš ŉ\n",
    "spaces.txt": " a  b   c    d\t\te \t f\u00a0g\u00a0\u00a0h\u3000i\u3000\u3000 j\u2003\u2009k\u180el \u180e \u180e\u180e m\u1680n"
                  "\u202fo\u205fp\u200bq \u00a0r\u00a0 s\x1cx\x1d\x1ey\x1f z   \n   \n \t \n",
    "code.txt": "int main(void) {\n    for (int i = 0; i < 10; i++) {\n\t\tprintf(\"%d\\n\", a[i]);   // comment\n    }\n\n\n"
                "    return 0;\n}\n<a href='https://example.org/x?y=1&z=2#f'>T</a>\n$$ x_{i}^{2} != ~(y) ... --- ___ ***\n"
                "HTTPServer getHTTPResponseCode camelCaseWords XMLHttp iOS eBay McDonald ΑΒΓδε ЖЗи ǄǅǆA\nif x:/\n//\n",
    "special.txt": "a<|endoftext|>b <|endoftext|> c<|endoftext|><|endoftext|>\n<|endoftext <|endoftext|<|endoftext|> |>x <mask> y\n"
                   "<mask>z  <end>\t\n w<end>  <mask><end> Ångström A\u030angström e\u0301t\u00e9 endend dendend\n",
    "invalid.bin": b"a\x80b \xff\xfe ok\xc3 \xc3\xa9\xc3(\xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82 \xf0\x9f\x98 end\xc0\xaf  \xe2\x82\xac\xf8",
}
# Too long to be stored: made the same way in test_tokenizer.c.
LONG = {"long-letters": "ab" * 3000, "long-line": "the cat sat " * 300, "long-spaces": " " * 30000 + "x" + "\t" * 20000,
        "long-same": "aaaa" * 30001, "long-marks": "!?" * 1000 + "\n" * 20000}


def train(pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(FOLDER / name) for name in TEXTS if name.endswith(".txt")], trainer)
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def variant(tokenizer, change):
    """A tokenizer whose JSON is changed."""
    root = json.loads(tokenizer.to_str())
    change(root)
    return Tokenizer.from_str(json.dumps(root)), json.dumps(root, ensure_ascii=False)


def whole(root):
    root["model"]["ignore_merges"] = True
    root["model"]["merges"] = [" ".join(pair) for pair in root["model"]["merges"]]
    # A word that merges do not make: it has a token all the same.
    root["model"]["vocab"]["ĠHTTPServer"] = len(root["model"]["vocab"])


def prefix(root):
    root["pre_tokenizer"]["add_prefix_space"] = True


def stages(root):
    parts = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in DEEPSEEK]
    digits = {"type": "Digits", "individual_digits": True}
    dots = {"type": "Split", "pattern": {"String": "..."}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    root["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts + [dots, digits, level]}


def added(root):
    def token(id, content, **flags):
        row = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
               "special": False}
        return {**row, **flags}
    size = len(root["model"]["vocab"])
    root["added_tokens"] += [token(size, "<mask>", lstrip=True, special=True), token(size + 1, "<end>", rstrip=True),
                             token(size + 2, "A\u030ang", normalized=True), token(size + 3, "dend", normalized=True),
                             token(size + 4, "dende", normalized=True), token(size + 5, "<|endoftext|><|endoftext|>")]
    root["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                              {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                              {"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0],
                                                                   "tokens": ["<|endoftext|>"]}}}


def encode_bytes(data, encode, byte_tokens):
    """Text between bytes that are no UTF-8, and the token of each such byte."""
    ids = []
    while data:
        try:
            valid = len(data.decode() and data)
        except UnicodeDecodeError as problem:
            valid = problem.start
        ids += encode(data[:valid].decode()) if valid else []
        ids += [byte_tokens[data[valid]]] if valid < len(data) else []
        data = data[valid + 1:]
    return ids


def write_tokens(name, encode, byte_tokens):
    lines = []
    for text, content in [*TEXTS.items(), *LONG.items()]:
        ids = encode_bytes(content, encode, byte_tokens) if isinstance(content, bytes) else encode(content)
        runs = [(token, len(list(run))) for token, run in itertools.groupby(ids)]
        lines.append(text + " " + " ".join(f"{t}*{n}" if n > 1 else f"{t}" for t, n in runs))
    (FOLDER / f"{name}.tokens").write_text("\n".join(lines) + "\n")


def character_of_byte(byte):
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return chr(byte if byte in printable else 0x100 + [b for b in range(256) if b not in printable].index(byte))


def write_library_tokens(name, tokenizer):
    byte_tokens = [tokenizer.token_to_id(character_of_byte(byte)) for byte in range(256)]
    write_tokens(name, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, byte_tokens)


def write_ranks(tokenizer):
    """The same vocabulary without its special token as a file of ranks, and its tokens by tiktoken."""
    vocabulary = sorted((number, text) for text, number in tokenizer.get_vocab().items())[1:]
    of_character = {character_of_byte(byte): byte for byte in range(256)}
    ranks = {bytes(of_character[c] for c in text): number - 1 for number, text in vocabulary}
    (FOLDER / "ranks.tiktoken").write_bytes(b"".join(base64.b64encode(k) + b" %d\n" % v for k, v in ranks.items()))
    encoding = tiktoken.Encoding("fixture", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    write_tokens("ranks", encoding.encode_ordinary, [ranks[bytes([byte])] for byte in range(256)])


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (FOLDER / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    trained = {"gpt2": train(pre_tokenizers.ByteLevel(add_prefix_space=False)),
               "llama3": train(split(LLAMA3)),
               "qwen2": train(split(QWEN2), normalizers.NFC()),
               "o200k": train(split(O200K))}
    for name, tokenizer in trained.items():
        tokenizer.save(str(FOLDER / f"{name}.json"))
        write_library_tokens(name, tokenizer)
    variants = [("whole", "llama3", whole), ("prefix", "gpt2", prefix), ("stages", "llama3", stages), ("added", "qwen2", added)]
    for name, of, change in variants:
        tokenizer, text = variant(trained[of], change)
        (FOLDER / f"{name}.json").write_text(text)
        write_library_tokens(name, tokenizer)
    write_ranks(trained["llama3"])


if __name__ == "__main__":
    main()
