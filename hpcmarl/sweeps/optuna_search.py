"""Trials whose values Optuna chooses. Its storage is a file of the sweep, so that no server is needed.

Whoever starts a trial first tells Optuna the results of all trials that have ended, from their run
directories. So no process has to live as long as the sweep.
"""

from __future__ import annotations

from typing import Any

from hpcmarl.config import Config
from hpcmarl.config.search import RangeConfig, SearchConfig
from hpcmarl.config.yaml_text import inline
from hpcmarl.errors import ConfigError, MissingPackageError
from hpcmarl.sweeps.directory import (
    PRUNED,
    SweepDirectory,
    config_of,
    outcome,
    read_progress,
    read_trial,
    write_trial,
)
from hpcmarl.sweeps.points import Trial, Values

STUDY = "hpcmarl"
NUMBER = "trial"  # attribute of Optuna's trial: number of ours


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError(
            "search: optuna needs the package optuna: pip install 'hpcmarl[sweeps]', or use search: random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_values(sweep: SearchConfig, base: Config) -> None:
    """Check the ends of all ranges and all values of lists, each with the first values of the others.

    Raises:
        ConfigError: A value is not allowed.
        MissingPackageError: Optuna is not installed.
    """
    _optuna()
    every = {
        key: (values.low, values.high) if isinstance(values, RangeConfig) else values
        for key, values in sweep.parameters.items()
    }
    first = {key: values[0] for key, values in every.items()}
    for key, values in every.items():
        for value in values:
            config_of(sweep, base, Trial(0, 0, 0, {**first, key: value}))


def open_study(directory: SweepDirectory, sweep: SearchConfig, number: int) -> Any:
    """Open the study of a sweep; make it if it does not exist.

    Args:
        directory: Files of the sweep.
        sweep: The sweep.
        number: Number of the trial that will be asked for; it seeds the draw.

    Raises:
        MissingPackageError: Optuna is not installed.
    """
    optuna = _optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(directory.journal))
    return optuna.create_study(
        study_name=STUDY,
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(seed=sweep.seed * 1_000_003 + number, constant_liar=True),
        direction="maximize" if sweep.goal == "maximise" else "minimize",
        load_if_exists=True,
    )


def ask(directory: SweepDirectory, sweep: SearchConfig, base: Config, number: int) -> Trial:
    """Choose the values of a trial and write its configuration; one that is written already stays.

    Raises:
        ConfigError: The values are not allowed together.
        MissingPackageError: Optuna is not installed.
        StorageError: A file cannot be written.
    """
    if (known := read_trial(directory, number)) is not None:
        return known
    optuna = _optuna()
    study = open_study(directory, sweep, number)
    tell(study, directory, sweep)
    begun = [
        each
        for each in study.trials
        if each.user_attrs.get(NUMBER) == number and not each.state.is_finished()
    ]
    if begun:  # its process was killed before it wrote the configuration
        asked = begun[-1]
    else:
        asked = study.ask(_distributions(optuna, sweep))
        asked.set_user_attr(NUMBER, number)
    trial = Trial(number, number - 1, 0, _values(sweep, asked.params))
    try:
        config = config_of(sweep, base, trial)
    except ConfigError:
        study.tell(asked.number, state=optuna.trial.TrialState.FAIL)
        raise
    write_trial(directory, trial, config)
    return trial


def _distributions(optuna: Any, sweep: SearchConfig) -> dict[str, Any]:
    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for key, values in sweep.parameters.items():
        if not isinstance(values, RangeConfig):
            found[key] = kinds.CategoricalDistribution([inline(value) for value in values])
        elif values.whole:
            step = 1 if values.step is None else int(values.step)
            found[key] = kinds.IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
        else:
            found[key] = kinds.FloatDistribution(
                float(values.low), float(values.high), log=values.log, step=values.step
            )
    return found


def _values(sweep: SearchConfig, params: dict[str, Any]) -> Values:
    """Return the values that Optuna's parameters stand for; choices from lists are texts there."""
    values: Values = {}
    for key, chosen in params.items():
        listed = sweep.parameters[key]
        if isinstance(listed, RangeConfig):
            values[key] = chosen
        else:
            values[key] = next(value for value in listed if inline(value) == chosen)
    return values


def tell(study: Any, directory: SweepDirectory, sweep: SearchConfig) -> None:
    """Report the results of all trials that have ended to Optuna, unless it has them already."""
    states = _optuna().trial.TrialState
    for each in study.trials:
        number = each.user_attrs.get(NUMBER)
        trial = None if each.state.is_finished() or number is None else read_trial(directory, number)
        if trial is None:
            continue
        found = outcome(directory, sweep, trial)
        if found.state == "failed" or (found.ended and found.value is None):
            study.tell(each.number, state=states.FAIL, skip_if_finished=True)
        elif found.state == PRUNED:
            _report(study, each, read_progress(directory, number))
            study.tell(each.number, state=states.PRUNED, skip_if_finished=True)
        elif found.state == "finished":
            study.tell(each.number, found.value, skip_if_finished=True)


def _report(study: Any, each: Any, progress: dict[str, Any]) -> None:
    """Report the values that a trial had before it was cut short, which the sampler uses."""
    running = _optuna().trial.Trial(study, each._trial_id)
    for check, value in (progress.get("values") or {}).items():
        running.report(float(value), int(check))
