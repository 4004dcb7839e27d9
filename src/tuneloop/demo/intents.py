"""What shoppers look for: combinations of concepts that the catalogue can meet, and how well each article does."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuneloop.demo.articles import Article, concept_matrix
from tuneloop.demo.lexicon import Concept, concepts
from tuneloop.demo.parameters import ShopParameters

Grades = npt.NDArray[np.int8]

_SIZES = {2: 0.72, 3: 0.28}  # concepts in an intent
_MIN_MATCHES = {2: 4, 3: 2}
_WITHOUT_TYPE = 0.12
_ZIPF = 0.8


@dataclass(frozen=True)
class Intents:
    """Every intent of the shop's shoppers, one array each.

    Attributes:
        concepts: what each intent asks for.
        grades: how well each article meets it, shape (intents, articles): 2 has all that is asked for, 1 all but one.
        popularity: how often each is searched for, relative to the others.
        held_out: the intents that no session of any round searches for, in whatever words.
    """

    concepts: tuple[frozenset[Concept], ...]
    grades: Grades
    popularity: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.bool_]


def make_intents(parameters: ShopParameters, articles: tuple[Article, ...]) -> Intents:
    """Intents drawn from what the articles are, so that for each there is something to find."""
    rng = parameters.rng("intents")
    has = concept_matrix(articles)
    order = {concept: index for index, concept in enumerate(concepts())}
    chosen: dict[frozenset[Concept], npt.NDArray[np.int64]] = {}
    # A concept first and an article that has it then, so that rare concepts are asked for as well.
    havers = [np.flatnonzero(column) for column in has.T]
    while len(chosen) < parameters.intents:
        column = int(rng.integers(len(havers)))
        if not len(havers[column]):
            continue
        wanted = _draw(rng, concepts()[column], articles[int(rng.choice(havers[column]))])
        columns = np.array(sorted(order[concept] for concept in wanted))
        if wanted not in chosen and has[:, columns].all(axis=1).sum() >= _MIN_MATCHES[len(wanted)]:
            chosen[wanted] = columns
    number = len(chosen)
    return Intents(
        concepts=tuple(chosen),
        grades=np.stack([_grade(has[:, columns]) for columns in chosen.values()]),
        popularity=rng.permutation(1 / np.arange(1, number + 1) ** _ZIPF),
        held_out=rng.permutation(number) < parameters.held_out_intents * number,
    )


def _draw(rng: np.random.Generator, concept: Concept, article: Article) -> frozenset[Concept]:
    """What somebody might ask for who wants this concept and would be happy with this article."""
    size = int(rng.choice(list(_SIZES), p=list(_SIZES.values())))
    wanted = [concept]
    if rng.random() >= _WITHOUT_TYPE and concept.facet != "type":
        wanted.append(Concept("type", article.type))
    others = sorted(other for other in article.concepts.difference(wanted) if other.facet != "type")
    wanted += [others[int(index)] for index in rng.permutation(len(others))[: size - len(wanted)]]
    return frozenset(wanted)


def _grade(has: npt.NDArray[np.bool_]) -> Grades:
    """Grades of all articles for one intent; `has` says which of its concepts each article has."""
    missing = has.shape[1] - has.sum(axis=1)
    return np.asarray(np.clip(2 - missing, 0, 2), np.int8)
