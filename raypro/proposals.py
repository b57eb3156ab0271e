"""Combinations proposed by Optuna, out of what the trials before reached; the only module that imports it."""

from collections.abc import Iterable
from typing import Any

from raypro.config import InputError
from raypro.space import Choice, Optuna, Random

ATTEMPTS = 20
"""Proposals of a combination that was tried before, after which an untried one is drawn."""


def require_optuna() -> Any:
    """Return Optuna, imported.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("search: Optuna is not installed; pip install 'raypro[optuna]'") from None
    return optuna


class Proposals:
    """The tree-structured Parzen estimator over a space's values, as classes without an order.

    After a resume it knows all that the sweep has found, but its sampler begins anew: the next proposals may be others than they would
    have been.
    """

    def __init__(self, search: Optuna, sizes: tuple[int, ...], sign: int, ended: Iterable[tuple[Choice, float | None]]) -> None:
        """Take in how earlier trials ended: their combinations and scores, None of failed ones; ``sign`` is -1 where low is good.

        Raises:
            InputError: Optuna is not installed.
        """
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._search, self._sizes, self._sign = optuna, search, sizes, sign
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=search.seed), direction="maximize")
        self._space = {str(axis): optuna.distributions.CategoricalDistribution(list(range(size))) for axis, size in enumerate(sizes)}
        self._asked: dict[Choice, Any] = {}
        for choice, score in ended:
            self.tell(choice, score)

    def ask(self, given: Iterable[Choice]) -> Choice:
        """Return a combination that is none of those ``given`` out already."""
        taken = set(given)
        for _ in range(ATTEMPTS):
            asked = self._study.ask(self._space)
            choice = tuple(asked.params[str(axis)] for axis in range(len(self._sizes)))
            if choice not in taken:
                self._asked[choice] = asked
                return choice
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        every = Random(len(taken) + 1, self._search.seed).choices(self._sizes)
        return next(choice for choice in every if choice not in taken)

    def tell(self, choice: Choice, score: float | None) -> None:
        """Take in how a trial ended."""
        states = self._optuna.trial.TrialState
        state = states.FAIL if score is None else states.COMPLETE
        value = None if score is None else self._sign * score
        asked = self._asked.pop(choice, None)
        if asked is not None:
            self._study.tell(asked, value, state)
        else:
            params = {str(axis): place for axis, place in enumerate(choice)}
            self._study.add_trial(self._optuna.trial.create_trial(state=state, value=value, params=params, distributions=self._space))
