"""Algorithms outside hpcmarl: the description that every rank imports.

The description needs no torch. It names the class that learners import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from hpcmarl.algos.design import Design
from hpcmarl.config import AlgoConfig
from hpcmarl.types import EnvironmentSpec


class ExternalAlgorithm(ABC):
    """Description of an algorithm, named by `algo.name`. It is never instantiated.

    Attributes:
        config_class: Section `algo` of the algorithm.
        learner: Subclass of `hpcmarl.algos.base.Algorithm` as "module:Class"; only learners import it.
    """

    config_class: ClassVar[type[AlgoConfig]] = AlgoConfig
    learner: ClassVar[str] = ""

    @staticmethod
    @abstractmethod
    def design(spec: EnvironmentSpec, config: Any) -> Design:
        """Describe the networks of the algorithm.

        Args:
            spec: The environment.
            config: An instance of `config_class`.

        Raises:
            ConfigError: The environment does not fit the algorithm.
        """
