"""The house search engine, which Tuneloop is there to beat: keywords, popularity, and a little of what was bought."""

import numpy as np
import numpy.typing as npt

from tuneloop.demo.parameters import ShopParameters

Floats = npt.NDArray[np.floating]


class HouseEngine:
    """Ranks the catalogue for a query that it understands in part.

    It knows the plain words. Of the invented words it has only noticed, poorly, what people bought after using them,
    for each word to another degree.
    """

    def __init__(self, parameters: ShopParameters, has: npt.NDArray[np.bool_], words: tuple[str, ...]) -> None:
        self._parameters = parameters
        self._has = np.ascontiguousarray(has.T, np.float32)  # (concepts, articles)
        rng = parameters.rng("engine")
        self._popularity = rng.standard_normal(len(has), np.float32)
        self._noticed = dict(zip(words, rng.uniform(0.2, 1, len(words)), strict=True))

    def search(
        self, rng: np.random.Generator, plain: list[int], invented: list[tuple[str, int]]
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """What it shows, best first by its own judgement, and the scores.

        Args:
            rng: the noise of this moment: stock, experiments, who else is searching.
            plain: the concepts (positions in `concepts()`) that the query names in plain words.
            invented: the invented words of the query, each with the concept that it stands for.
        """
        parameters, number = self._parameters, len(plain) + len(invented)
        score = parameters.engine_popularity * self._popularity
        score = score + parameters.engine_noise * rng.standard_normal(len(score), np.float32)
        score += parameters.engine_keyword * self._has[plain].sum(axis=0) * 2 / number
        for word, concept in invented:
            score += parameters.engine_log * self._noticed[word] * self._has[concept] * 2 / number
        best = np.argpartition(-score, parameters.results_shown)[: parameters.results_shown]
        shown = best[np.argsort(-score[best], kind="stable")]
        return shown, 1 / (1 + np.exp(-score[shown]))
