"""List the public data sets that basinet knows by name.

Addresses and checksums are published by the authors or by widely used codes (PyTorch Geometric, SchNetPack,
TorchMD-NET, modelforge, ATOM3D). Without a published checksum, that of the first download is required of later ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from basinet.data.files.options import Reading
from basinet.data.sources import official_splits as splits
from basinet.data.sources.collection import (
    Collection,
    Contents,
    DrawSplits,
    PublicDataset,
    RemoteFile,
    as_they_are,
    minima_of_sdf_archive,
    out_of_archive,
)
from basinet.data.sources.geom import open_conformers
from basinet.data.sources.lba import open_affinities
from basinet.data.sources.qm9 import LABEL_UNITS, open_sdf_archive, open_xyz_archive

GDML = ("http://www.quantum-machine.org/gdml/repo/datasets/", "http://quantum-machine.org/gdml/data/npz/")
FIGSHARE = ("https://springernature.figshare.com/ndownloader/files/", "https://ndownloader.figshare.com/files/")
BOTNET = "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/main/"
ZENODO = "https://zenodo.org/records/"

KCAL = "kcal/mol, kcal/mol/Å, Å"
BENCHMARK_3BPA = {
    f"3bpa-{train}{'' if train == test else f'-{test}'}": (f"train_{train}.xyz", f"test_{test}.xyz")
    for train in ("300K", "mixedT")
    for test in ("300K", "600K", "1200K")
}
BENCHMARK_ACAC = {
    "acac-300K": ("train_300K.xyz", "test_MD_300K.xyz"),
    "acac-300K-600K": ("train_300K.xyz", "test_MD_600K.xyz"),
    "acac-600K": ("train_600K.xyz", "test_MD_600K.xyz"),
}


def _file(*urls: str, name: str = "", checksum: str | None = None, n_bytes: int | None = None) -> RemoteFile:
    """Return a file with the name at the end of its first address, or another name."""
    return RemoteFile(name=name or urls[0].rpartition("/")[2], urls=urls, checksum=checksum, n_bytes=n_bytes)


def _figshare(name: str, number: int, checksum: str, n_bytes: int, *mirrors: str) -> RemoteFile:
    return _file(*(f"{base}{number}" for base in FIGSHARE), *mirrors, name=name, checksum=checksum, n_bytes=n_bytes)


def _gdml(file: str, level: str, n_molecules: int | None) -> Contents:
    return Contents(
        files=(_file(*(base + file for base in GDML)),),
        read=as_they_are(Reading(energy_unit="kcal/mol", length_unit="Angstrom")),
        level_of_theory=level,
        n_molecules=n_molecules,
    )


def _botnet(
    directory: str, level: str, joined: Sequence[str], alone: Sequence[str], drawn: DrawSplits
) -> dict[str, Contents]:
    """Return a benchmark of several joined files, and each file as a data set of its own."""
    files = {name: _file(f"{BOTNET}{directory}/{name}.xyz") for name in (*joined, *alone)}
    whole = Contents(
        files=tuple(files[name] for name in joined), read=as_they_are(), level_of_theory=level, splits=drawn
    )
    each = {name: Contents(files=(file,), read=as_they_are(), level_of_theory=level) for name, file in files.items()}
    return {"": whole, **each}


UNCHARACTERIZED = _figshare("uncharacterized.txt", 3195404, "md5:a361887bacb427b8a0ce7903d92a53b4", 486_752)
QM9_XYZ = _figshare(
    "dsgdb9nsd.xyz.tar.bz2",
    3195389,
    "md5:ad1ebd51ee7f5b3a6e32e974e5d54012",
    86_144_227,
    "https://paddle-org.bj.bcebos.com/paddlematerials/datasets/qm9/dsgdb9nsd.xyz.tar.bz2",
)
QM9_SDF = _file(
    "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip",
    "https://s3-us-west-1.amazonaws.com/deepchem.io/datasets/molnet_publish/qm9.zip",
)
QM9 = Collection(
    name="qm9",
    what="133,885 small molecules with 15 properties, less the 3,054 uncharacterised ones",
    contents={
        key: Contents(
            files=(archive, UNCHARACTERIZED),
            read=read,
            level_of_theory="B3LYP/6-31G(2df,p)",
            units=LABEL_UNITS,
            n_molecules=130_831,
        )
        for key, archive, read in (("", QM9_XYZ, open_xyz_archive), ("sdf", QM9_SDF, open_sdf_archive))
    },
    units="Ha, D, bohr^2, bohr^3, cal/mol/K, Å",
    licence="CC0",
    citation="Ramakrishnan et al., Sci. Data 1 (2014) 140022",
    splits=("qm9-110k", "qm9-3d-emgp"),
)

MD17_FRAMES = {
    "aspirin": ("md17_aspirin.npz", 211_762),
    "azobenzene": ("azobenzene_dft.npz", 99_999),
    "benzene": ("md17_benzene2017.npz", 627_983),
    "ethanol": ("md17_ethanol.npz", 555_092),
    "malonaldehyde": ("md17_malonaldehyde.npz", 993_237),
    "naphthalene": ("md17_naphthalene.npz", 326_250),
    "paracetamol": ("paracetamol_dft.npz", 106_490),
    "salicylic": ("md17_salicylic.npz", 320_231),
    "toluene": ("md17_toluene.npz", 442_790),
    "uracil": ("md17_uracil.npz", 133_770),
}
MD17 = Collection(
    name="md17",
    what="molecular dynamics of one molecule at 500 K, energies and forces",
    contents={molecule: _gdml(file, "PBE+vdW-TS", n) for molecule, (file, n) in MD17_FRAMES.items()},
    units=KCAL,
    licence="not stated",
    citation="Chmiela et al., Sci. Adv. 3 (2017) e1603015",
    splits=("md17-950", "md17-9500", "md17-mdsim"),
)

RMD17_ARCHIVE = _file(
    "https://figshare.com/ndownloader/files/23950376",
    "https://archive.materialscloud.org/record/file?filename=rmd17.tar.bz2&record_id=466",
    name="rmd17.tar.bz2",
)
RMD17 = Collection(
    name="rmd17",
    what="frames of MD17 with energies and forces computed anew, tightly converged",
    contents={
        molecule: Contents(
            files=(RMD17_ARCHIVE,),
            read=out_of_archive(f"npz_data/rmd17_{molecule}.npz", reading=Reading(energy_unit="kcal/mol")),
            level_of_theory="PBE/def2-SVP",
            n_molecules=99_988 if molecule == "azobenzene" else 100_000,
            splits=splits.rmd17,
        )
        for molecule in MD17_FRAMES
    },
    units=KCAL,
    licence="CC0",
    citation="Christensen & von Lilienfeld, Mach. Learn.: Sci. Technol. 1 (2020) 045018",
    splits=tuple(f"rmd17-{number:02}" for number in range(1, 6)),
)

MD22_FRAMES = {
    "Ac-Ala3-NHMe": None,
    "DHA": 69_753,
    "stachyose": None,
    "AT-AT": None,
    "AT-AT-CG-CG": 10_153,
    "buckyball-catcher": 6102,
    "double-walled_nanotube": 5032,
}
MD22 = Collection(
    name="md22",
    what="molecular dynamics of molecules of 42 to 370 atoms, energies and forces",
    contents={molecule: _gdml(f"md22_{molecule}.npz", "PBE+MBD", n) for molecule, n in MD22_FRAMES.items()},
    units=KCAL,
    licence="not stated",
    citation="Chmiela et al., Sci. Adv. 9 (2023) eadf0873",
)

ISO17 = Collection(
    name="iso17",
    what="molecular dynamics of 129 isomers of C7O2H10, energies and forces",
    contents={
        "": Contents(
            files=(
                _file(
                    "http://www.quantum-machine.org/datasets/iso17.tar.gz",
                    "http://quantum-machine.org/datasets/iso17.tar.gz",
                ),
            ),
            read=out_of_archive(
                *(f"{fold}.db" for fold in ("reference", "test_within", "test_other")),
                reading=Reading(energy_unit="eV", energy_key="total_energy", forces_key="atomic_forces"),
            ),
            level_of_theory="PBE+vdW-TS",
            n_molecules=645_000,
            splits=splits.iso17,
        )
    },
    units="eV, eV/Å, Å",
    licence="not stated",
    citation="Schütt et al., NeurIPS 30 (2017) 991; Schütt et al., Nat. Commun. 8 (2017) 13890",
    splits=("iso17-within", "iso17-other"),
)

ANI_1X = Collection(
    name="ani1x",
    what="conformations of small molecules (H, C, N, O) by active learning, energies and forces",
    contents={
        "": Contents(
            files=(
                _figshare(
                    "ani1x-release.h5",
                    18112775,
                    "sha256:fe0ba06198ee72cf1003deebab2652097f6ab518337784dc811fa7da0c3bf5ac",
                    5_590_846_027,
                ),
            ),
            read=as_they_are(),
            level_of_theory="wB97X/6-31G(d)",
        )
    },
    units="Ha, Ha/Å, Å",
    licence="CC0",
    citation="Smith et al., Sci. Data 7 (2020) 134; Smith et al., J. Chem. Phys. 148 (2018) 241733",
)

SPICE = Collection(
    name="spice",
    what="conformations of drug-like molecules, peptides, dimers and ions, energies and gradients",
    contents={
        version: Contents(
            files=(_file(f"{ZENODO}{record}/files/SPICE-{version}.hdf5", checksum=checksum, n_bytes=n_bytes),),
            read=as_they_are(),
            level_of_theory="wB97M-D3(BJ)/def2-TZVPPD",
        )
        for version, record, checksum, n_bytes in (
            ("1.1.4", 8222043, "md5:f27d4c81da0e37d6547276bf6b4ae6a1", None),
            ("2.0.1", 10975225, "md5:bfba2224b6540e1390a579569b475510", 37_479_271_148),
        )
    },
    units="Ha, Ha/bohr, bohr",
    licence="CC0",
    citation="Eastman et al., Sci. Data 10 (2023) 11",
)

PCQM4MV2 = Collection(
    name="pcqm4mv2",
    what="minima of 3.4 million molecules, with bonds and explicit hydrogens; no labels",
    contents={
        "": Contents(
            files=(
                _file(
                    "http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2-train.sdf.tar.gz",
                    checksum="md5:fd72bce606e7ddf36c2a832badeec6ab",
                ),
            ),
            read=minima_of_sdf_archive,
            level_of_theory="B3LYP/6-31G*",
            n_molecules=3_378_606,
        )
    },
    units="Å",
    licence="see ogb.stanford.edu/docs/lsc/pcqm4mv2",
    citation="Hu et al., arXiv:2103.09430; Nakata & Shimazaki, J. Chem. Inf. Model. 57 (2017) 1300",
)

GEOM_ARCHIVE = _file(
    "https://dataverse.harvard.edu/api/access/datafile/4327190",
    name="qm9_crude.msgpack.tar.gz",
    checksum="md5:aad0081ed5d9b8c93c2bd0235987573b",
    n_bytes=1_025_881_930,
)
GEOM_FILTER = _file(
    "https://raw.githubusercontent.com/jiaor17/3D-EMGP/b7841da268bf0e62ef4aa3a624a4cd2cf2cc4865/data/filter_smiles.txt"
)
GEOM_QM9 = Collection(
    name="geom-qm9",
    what="the 10 likeliest conformers (conformers=...) of each molecule of QM9; 3d-emgp: less its filter list",
    contents={
        key: Contents(files=files, read=open_conformers, level_of_theory="GFN2-xTB")
        for key, files in {"": (GEOM_ARCHIVE,), "3d-emgp": (GEOM_ARCHIVE, GEOM_FILTER)}.items()
    },
    units="Ha, Å",
    licence="see doi:10.7910/DVN/JNGTDF",
    citation="Axelrod & Gómez-Bombarelli, Sci. Data 9 (2022) 185",
)

BPA = Collection(
    name="3bpa",
    what="one flexible molecule of 27 atoms at 300, 600 and 1200 K, energies and forces",
    contents=_botnet(
        "dataset_3BPA",
        "wB97X/6-31G(d)",
        ("train_300K", "train_mixedT", "test_300K", "test_600K", "test_1200K"),
        ("test_dih", "iso_atoms"),
        splits.files_as_splits(BENCHMARK_3BPA),
    ),
    units="eV, eV/Å, Å",
    licence="MIT",
    citation="Kovács et al., J. Chem. Theory Comput. 17 (2021) 7696",
    splits=tuple(BENCHMARK_3BPA),
)

ACAC = Collection(
    name="acac",
    what="acetylacetone at 300 and 600 K, energies and forces, and a dihedral scan (energies)",
    contents=_botnet(
        "dataset_acac",
        "PBE-D3/def2-SVP",
        ("train_300K", "train_600K", "test_MD_300K", "test_MD_600K"),
        ("test_dihedral", "test_H_transfer", "isolated_atoms"),
        splits.files_as_splits(BENCHMARK_ACAC),
    ),
    units="eV, eV/Å, Å",
    licence="MIT",
    citation="Batatia et al., arXiv:2205.06643",
    splits=tuple(BENCHMARK_ACAC),
)

LBA = Collection(
    name="lba",
    what="pockets of proteins with ligands, and -log10 of the affinity (neglog_aff)",
    contents={
        identity: Contents(
            files=(
                _file(
                    f"https://zenodo.org/record/4914718/files/LBA-split-by-sequence-identity-{identity}.tar.gz",
                    checksum=checksum,
                ),
            ),
            read=open_affinities,
            level_of_theory="experiment",
            units={"neglog_aff": "1"},
            splits=splits.lba(identity),
        )
        for identity, checksum in (("30", "md5:578ef179947bc5e3621bb24db89cbd55"), ("60", None))
    },
    units="Å",
    licence="CC BY-NC-ND",
    citation="Townshend et al., arXiv:2012.04035; Wang et al., J. Med. Chem. 47 (2004) 2977",
    splits=("lba-30", "lba-60"),
)

COLLECTIONS: Mapping[str, Collection] = MappingProxyType(
    {
        collection.name: collection
        for collection in (QM9, MD17, RMD17, MD22, ISO17, ANI_1X, SPICE, PCQM4MV2, GEOM_QM9, BPA, ACAC, LBA)
    }
)
"""Collections by name."""

HEADER = ("name", "what", "level of theory", "units of the files", "download", "splits", "licence", "cite")


def rows() -> Iterator[tuple[str, ...]]:
    """Yield a row of texts for each source, under :data:`HEADER`."""
    for collection in COLLECTIONS.values():
        levels = dict.fromkeys(contents.level_of_theory for contents in collection.contents.values())
        yield (
            ", ".join(PublicDataset(collection, key).name for key in collection.contents),
            collection.what,
            ", ".join(levels),
            collection.units,
            _size(collection),
            ", ".join(collection.splits) or "none",
            collection.licence,
            collection.citation,
        )


def _size(collection: Collection) -> str:
    """Return the sizes of the parts where they are known."""
    sizes = {
        sum(file.n_bytes for file in contents.files if file.n_bytes is not None)
        if all(file.n_bytes is not None for file in contents.files)
        else None
        for contents in collection.contents.values()
    }
    known = sorted(size for size in sizes if size is not None)
    return ", ".join(f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" for size in known) or "not known"
