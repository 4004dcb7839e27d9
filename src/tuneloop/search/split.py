"""Which queries are held out: always the same, in this iteration and in every other."""

import hashlib
import unicodedata

SALT = "tuneloop held-out 1"
HELD_OUT_SHARE = 0.2


def normalize_query(query: str) -> str:
    """The query as it is compared: compatibility forms and case folded, white space collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", query).casefold())
    return " ".join(folded.split())


def is_held_out(query: str) -> bool:
    """Whether sessions with this query judge models instead of training them; so for a fifth of all queries."""
    digest = hashlib.sha256(f"{SALT}\0{normalize_query(query)}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < HELD_OUT_SHARE * 2**64
