"""Presets: settings from the code of published algorithms, as values of hpcmarl's keys.

`preset: NAME` fills them in (config/preset_layer.py). `hpcmarl list presets --markdown` prints the tables of
docs/presets.md.

To add a value, add a line to the `settings` of a preset. If the value closes one of its `gaps`, remove that
gap. To add a preset, write a Preset in the module of its authors' repository, and add it to PRESETS and
PresetName.
"""

from typing import Literal

from hpcmarl.config.presets.onpolicy import IPPO, MAPPO
from hpcmarl.config.presets.preset import Gap, Preset, Setting
from hpcmarl.config.presets.pymarl import COMA, QMIX, VDN
from hpcmarl.config.presets.seed_rl import MA_TRACE

__all__ = ["PRESETS", "Gap", "Preset", "PresetName", "Setting"]

PresetName = Literal["mappo", "ippo", "qmix", "vdn", "coma", "ma_trace"]
PRESETS: dict[str, Preset] = {
    "mappo": MAPPO,
    "ippo": IPPO,
    "qmix": QMIX,
    "vdn": VDN,
    "coma": COMA,
    "ma_trace": MA_TRACE,
}
