"""Presets: what the code of published algorithms sets, as values of our keys. `preset: NAME` fills them in
(config/preset_layer.py).

A new value is one line in the `settings` of a preset; where it closes one of the `gaps`, that line leaves. A
new preset is a Preset in the file of its authors' repository, a line in PRESETS and a name in PresetName.
`hpcmarl list presets --markdown` prints the tables of docs/presets.md.
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
