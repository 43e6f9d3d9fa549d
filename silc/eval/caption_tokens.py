"""Tokenizer of caption metrics: Penn Treebank words, by the rules of Stanford's PTBTokenizer 3.4.1.

pycocoevalcap runs that tokenizer in Java. Here its rules that captions need are regular expressions: the longest match
wins, and the earlier rule if two are equally long. If a rule has a group, the group is the token. Words are in lower
case, without punctuation. Imports no torch.
"""

from __future__ import annotations

import re
from functools import cache

PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""Tokens that pycocoevalcap leaves out. Its list has upper-case brackets but words are lower-case: "-lrb-" stays."""
NAMED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
    "¤": "$",
    "¢": "cents",
    "…": "...",
    "\u0085": "...",
    "¼": "1/4",
    "½": "1/2",
    "¾": "3/4",
}
"""How the tokenizer writes some characters."""
APOS = "['\u0092\u2019]"
ANY_APOS = "['\u0091\u0092\u2018\u2019\u201b]"
LETTER = r"[^\W\d_]"
ALNUM = r"[^\W_]"
ABBREVIATED = (
    "Jan Feb Mar Apr Jun Jul Aug Sept Sep Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri "
    "Ala Ariz Ark Calif Colo Conn Dak Del Fla Ga Ill Ind Kans Kan Ky La Mass Md Mich Minn Miss Mo Mont Neb Nev Okla "
    "Ore Pa Penn Tenn Tex Va Vt Wash Wis Wyo "
    "Inc Cos Corp Co Pp Pte Ltd Plc Bancorp Dept Bhd Assn Univ Intl Sys Ph Est Ext Sq "
    "Jr Sr Bros Ed Esq etc al seq Bldg Mr Ms Mrs Drs Dr Prof Gov Sen Rep Reps Lt Brig Gen Col Capt Maj Sgt Cpl Pvt St "
    "Rev Messrs Hon Pres Supt Adm Ave Blvd Rd Mt Ft vs"
)
"""Abbreviations that keep their full stop."""
TWO_WORDS = {
    "cannot": 3,
    "gonna": 3,
    "gotta": 3,
    "lemme": 3,
    "gimme": 3,
    "wanna": 3,
    "'tis": 2,
    "'twas": 2,
}
"""Words that are split into two, and the position of the split."""
RULES = tuple(
    re.compile(rule)
    for rule in (
        r"</?[A-Za-z!?][^<>\n]*>",
        rf"({LETTER}+)n{APOS}t(?!{ALNUM})",
        rf"n{APOS}t(?!{ALNUM})",
        rf"(?i:{APOS}(?:[msd]|re|ve|ll))(?!{ALNUM})",
        rf"{APOS}n(?:{APOS}|(?!{ALNUM}))",
        rf"{APOS}(?:em|till?|[2-9]0s)(?!{ALNUM})",
        rf"{APOS}\d\d(?!{ALNUM})",
        rf"(?:[lLdDjJ]|ol|y){APOS}(?={ALNUM})",
        rf"[OoDdLl]{ANY_APOS}{LETTER}{{2,}}{ALNUM}*",
        rf"{LETTER}{ALNUM}*",
        rf"{ALNUM}+",
        r"(?:https?://)[^\s\"<>|]+[^\s\"<>|.!?,;:(){}]",
        r"www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){},-])?",
        r"(?:[^\s\"`'<>|.!?(){},\-$]+\.)+(?:com|net|org|edu)(?![A-Za-z])(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){},-])?",
        r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)+",
        r"@[a-zA-Z_]\w*",
        rf"#{LETTER}+\w*",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",
        r"(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}",
        rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{ALNUM}+|[A-Za-z](?:\.[A-Za-z])+\.))+",
        rf"{LETTER}{ALNUM}*(?:-{ALNUM}+)+",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        r"[A-Z]+(?:[+&][A-Z]+)+",
        r"[A-Za-z](?:\.[A-Za-z])+\.",
        r"[A-Z]\.",
        rf"(?i:{'|'.join(sorted(ABBREVIATED.split(), key=len, reverse=True))})\.",
        r"(?i:No|Nos|Fig|Figs|p|pp|ca)\.(?=\s?\d)",
        r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026]",
        r"[!?]+",
        r"-+|[\u2010-\u2015]",
        r"\*+|#+|@+|_+",
        r"[A-Z]*\$",
        r"&(?:amp|lt|gt|quot|apos);",
        r":-?[()DP]",
        r"\S",
    )
)
QUOTES = frozenset(
    "\"`'\u0091\u0092\u0093\u0094\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a\u00ab\u00bb"
)
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}
PLAIN = re.compile(r"[A-Za-z]+(?=\s|$)")
"""A plain word before a blank or the end of the text; no other rule needs to be tried for it."""


@cache
def _halves(word: str) -> tuple[str, ...]:
    cut = TWO_WORDS.get(word, 0)
    return (word[:cut], word[cut:]) if cut else (word,)


def words(caption: str) -> list[str]:
    """The words of a caption.

    >>> words("A man's dog isn't going to the U.S. Open.")
    ['a', 'man', "'s", 'dog', 'is', "n't", 'going', 'to', 'the', 'u.s.', 'open']
    """
    found, place = list[str](), 0
    while place < len(caption):
        if caption[place].isspace():
            place += 1
            continue
        token = _next(caption, place)
        place += len(token)
        found += [word for word in _halves(_written(token)) if word not in PUNCTUATION]
    return found


def _next(caption: str, place: int) -> str:
    """The token that begins at a position."""
    if plain := PLAIN.match(caption, place):
        return plain.group()
    for start in ("'tis", "'twas"):
        if caption[place : place + len(start)].lower().replace("\u2019", "'") == start:
            return caption[place : place + len(start)]
    matches = (rule.match(caption, place) for rule in RULES)
    longest = max((match for match in matches if match), key=lambda match: match.end())
    token: str = longest[longest.lastindex or 0]
    return token


def _written(token: str) -> str:
    """A token as the tokenizer writes it."""
    if token in QUOTES:
        return "'"
    if token in NAMED or token in ENTITIES:
        return NAMED.get(token) or ENTITIES[token]
    if (len(token) == 1 and "\u2010" <= token <= "\u2015") or re.fullmatch("-{2,4}", token):
        return "--"
    if re.fullmatch(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.", token):
        return "..."
    return re.sub("[\u0091\u0092\u2018\u2019]", "'", token).lower()
