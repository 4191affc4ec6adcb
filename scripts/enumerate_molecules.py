"""Print the list of small organic molecules that basinet ships, ``src/basinet/data/chemistry/molecules.smi``.

The list is made here and nowhere else: scaffolds times substituents, through RDKit, with rules against what a chemist
would not put in a bottle. Nothing is drawn at random and nothing is copied from a data set; the order is that of a
hash of the SMILES, so that the first n molecules of the file are a diverse subset for every n.

    python scripts/enumerate_molecules.py > src/basinet/data/chemistry/molecules.smi

Made with RDKit 2026.9.1; another version may write some of the SMILES differently, for the same molecules.
"""

import hashlib
import itertools

from rdkit import Chem, RDLogger, rdBase

MAX_HEAVY_ATOMS = 10
LARGE = 8
"""More heavy atoms than this are large: they cost most of the time that labels take, and so they are rationed."""
N_ONCE, N_ONCE_LARGE = 9, 1
"""Molecules that each scaffold gives with one substituent; how many of them may be large."""
N_TWICE, N_TWICE_LARGE = 3, 1
"""The same with two substituents. Without these rations benzene would fill the list."""

SMALL_MOLECULES = """
    [H][H] C N O F S Cl C=O C#N CO CN CS CF CCl CC C=C C#C N#N O=C=O [C-]#[O+] N=C=O C=C=C C=C=O S=C=S O=C=S N#CC#N
    NN NO OO CSSC CN=C=O CN=C=S CC(=O)Cl FC(F)F ClC(Cl)Cl FC(F)(F)F ClC(Cl)(Cl)Cl O=S=O CON C=NO CC=NO CNO CN=NC C=NN
    O=CCC=O OC=CC=O O=CC=O CC(=O)C(C)=O N#CCC#N O=C(O)C(=O)O NC(=O)C(N)=O CC(=O)CC(C)=O CC(O)=CC(C)=O
"""
"""The tiniest molecules, and groups that the substitutions below cannot make."""

CHAINS = """
    C CC CCC CC(C)C CCCC CCCCC CC(C)(C)C C=C CC=C CC(C)=C CC=CC C=CC=C C#C CC#C CC#CC C=CC#C
    CO CCO CC(C)O OCCO COC CCOC COCOC CN CCN CNC CN(C)C NCCN CS CCS CSC CCSC
    C=O CC=O CCC=O CC(C)=O CCC(C)=O C=CC=O C=CC(C)=O O=CO CC(=O)O CCC(=O)O C=CC(=O)O COC=O CC(=O)OC COC(=O)OC
    NC=O CC(N)=O CNC=O CN(C)C=O CNC(C)=O NC(N)=O COC(N)=O CC#N CCC#N C=CC#N CNC#N CC=N CC(C)=NO CC=NN CC(N)=N NC(N)=N
    C[N+](=O)[O-] CC[N+](=O)[O-] CS(C)=O CS(C)(=O)=O CS(N)(=O)=O CS(=O)(=O)NC CNS(C)(=O)=O CC(N)=S CNC(=S)NC CSC(C)=O
    CC(=O)OC=C C=COC CC(F)F CC(F)(F)F CCCl NCC(=O)O OCC(=O)O NCC=O OCC=O COCC#N NCCO NCCS OCCS
"""
RINGS = """
    C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CC1 C1=CCC1 C1=CCCC1 C1=CCCCC1 C1=CCC=C1 C1=CC=CCC1
    C1CO1 C1CN1 C1CS1 C1COC1 C1CNC1 C1CSC1 C1CCOC1 C1CCNC1 C1CCSC1 C1CCOCC1 C1CCNCC1 C1COCCN1 C1COCCO1 C1CNCCN1
    C1COCO1 C1=COCC1 C1=CNCC1 C1=NCCO1 C1=NCCN1 C1CCSCC1
    O=C1CC1 O=C1CCC1 O=C1CCCC1 O=C1CCCCC1 O=C1C=CCC1 O=C1CCO1 O=C1CCN1 O=C1CCCO1 O=C1CCCN1 O=C1NCCN1 O=C1OCCO1 O=C1OCCN1
    O=C1CCC(=O)N1 O=C1C=CC(=O)N1 O=S1(=O)CCCC1 C1CC2CC12 C1CC2CCC1C2 C1CC12CC2
"""
AROMATICS = """
    c1ccccc1 c1ccncc1 c1ccnnc1 c1cncnc1 c1cnccn1 c1ncncn1 c1ccoc1 c1ccsc1 c1cc[nH]c1 c1c[nH]cn1 c1cc[nH]n1 c1cocn1
    c1cnoc1 c1cscn1 c1cnsc1 c1nc[nH]n1 c1c[nH]nn1 c1nnco1 c1nncs1 c1nnn[nH]1 Cn1cccc1 Cn1ccnc1 Cc1ccccc1 Cc1ccco1
    Cc1cccs1 Oc1ccccc1 COc1ccccc1 Nc1ccccc1 CNc1ccccc1 Sc1ccccc1 CSc1ccccc1 Fc1ccccc1 Clc1ccccc1 N#Cc1ccccc1 O=Cc1ccccc1
    CC(=O)c1ccccc1 O=C(O)c1ccccc1 NC(=O)c1ccccc1 O=[N+]([O-])c1ccccc1 C=Cc1ccccc1 C#Cc1ccccc1 OCc1ccccc1 NCc1ccccc1
    NS(=O)(=O)c1ccccc1 CC(=O)Oc1ccccc1 O=CNc1ccccc1 O=Cc1ccccc1O O=C(O)c1ccccc1O NC(=O)c1ccccc1O Oc1ccccc1O Nc1ccccc1O
    Oc1ccncc1 Nc1ccncc1 O=Cc1ccncc1 O=C(O)c1ccncc1 O=Cc1ccco1 O=C(O)c1ccco1 O=Cc1cccs1 O=c1cc[nH]cc1 O=c1cccc[nH]1
    O=c1cc[nH]c(=O)[nH]1 O=c1ccocc1 Nc1ccncn1 c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2sccc2c1 c1ccc2[nH]cnc2c1
    c1ccc2ccccc2c1 c1ccc2ncccc2c1 c1ccc2c(c1)OCO2 c1ccn2ccnc2c1
"""

SUBSTITUENTS = """
    C CC C(C)C C1CC1 C=C C#C F Cl C(F)F C(F)(F)F CF CCl O OC OCC CO CCO COC N NC N(C)C CN CCN S SC CS
    C=O C(C)=O CC=O C(=O)O C(=O)OC OC=O OC(C)=O C(N)=O NC=O NC(C)=O C(=O)NC C#N CC#N [N+](=O)[O-] C=NO C(=O)F C(=O)Cl
    S(C)=O S(C)(=O)=O S(N)(=O)=O NC(N)=O C(N)=S
"""
"""Written from the atom that is attached to the scaffold."""

SECOND_SUBSTITUENTS = "C C=C C#C F Cl O OC N NC S C=O C(=O)O C(N)=O C#N [N+](=O)[O-] CO C(F)(F)F"
"""For pairs, on top of a first substituent."""

UNWANTED = {
    name: Chem.MolFromSmarts(smarts)
    for name, smarts in {
        "three hetero atoms in a row": "~".join(["[N,O,S;!$([N+]);!$(S=O);R0]"] * 3),
        "peroxide or hypohalite": "[O,S;!a][O,F,Cl;!$([O-]);!$([O]=S)]",
        "halogen on nitrogen": "[F,Cl][N,n]",
        "nitrogen bound to oxygen or sulfur": "[N;!$([N+]);!$(N=C);!$(NS(=O)=O)]-!@[O,S]",
        "hetero atom on an aromatic nitrogen": "n-[N,O,S,F,Cl]",
        "hydrazine or nitramine": "[NX3;!$([N+]);!$(NN=C)]-[N;!a]",
        "sulfenyl or sulfinyl derivative": "[SX2,SX3]-[N,O,S,F,Cl]",
        "sulfonyl halide or acid": "S(=O)(=O)[F,Cl,S,OH]",
        "two hetero atoms on one carbon, one with hydrogen": "[CX4]([OH,SH,NH2,$([NH]C)])[N,O,S,F,Cl]",
        "three hetero atoms on one carbon": "[CX4]([N,O,S])([N,O,S,F,Cl])[N,O,S,F,Cl]",
        "halogen next to a lone pair": "[F,Cl][CX4;!$(C([F])[F])][OX2,NX3,SX2]",
        "enol, enamine or enethiol": "[C;!a;!$(C(=C)C=O)](=[C;!$(C[CX3]=O)])[OH,SH,NH2,$([NH]C)]",
        "cumulene": "*=[C;R0]=*",
        "ynol or ynamine": "C#C[N,O,S,F,Cl]",
        "cyanate or cyanogen halide": "N#C[O,S,F,Cl]",
        "imidic acid or halide": "[$(C=N);!$(C=NO);!a]([OH,SH,F,Cl])",
        "anhydride": "[CX3](=[O,S])[O,S][CX3]=[O,S]",
        "carbonic or carbamic acid": "[N,n,O,S;!$([OH])]C(=O)[OH,SH,F,Cl]",
        "thioacid": "[SH]C=O",
        "formyl halide": "[CH](=O)[F,Cl]",
        "nitro on nitrogen or acyl": "[N+](=O)([O-])[#7,$([#6]=O)]",
        "double bond in a ring of three": "[r3]=[#6,#7]",
    }.items()
}


def main() -> None:
    """Print the header and one SMILES per line."""
    molecules = sorted(select(), key=_hash)
    print(
        f"# {len(molecules)} small organic molecules, H C N O F S Cl, neutral, at most {MAX_HEAVY_ATOMS} heavy atoms."
    )
    print(f"# Enumerated by scripts/enumerate_molecules.py with RDKit {rdBase.rdkitVersion}; in the order of a hash.")
    print("\n".join(molecules))


def select() -> set[str]:
    """Return the small molecules, all scaffolds, and a share of the substituted ones of every scaffold."""
    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    chosen = {Chem.CanonSmiles(smiles) for smiles in SMALL_MOLECULES.split()}
    listed = f"{CHAINS} {RINGS} {AROMATICS}".split()
    scaffolds = list(dict.fromkeys(Chem.CanonSmiles(smiles) for smiles in listed))
    chosen.update(scaffolds)
    for scaffold in scaffolds:
        once = _share(_with_one(scaffold, SUBSTITUENTS) - chosen, N_ONCE, N_ONCE_LARGE)
        chosen.update(once)
        twice = {smiles for first in once[:N_TWICE] for smiles in _with_one(first, SECOND_SUBSTITUENTS)}
        chosen.update(_share(twice - chosen, N_TWICE, N_TWICE_LARGE))
    return chosen


def _share(candidates: set[str], n: int, n_large: int) -> list[str]:
    """Return the first ``n`` wanted molecules in the order of their hash, at most ``n_large`` of them large."""
    share: list[str] = []
    for smiles in sorted(candidates, key=_hash):
        is_large = _n_heavy(smiles) > LARGE
        if len(share) == n:
            break
        if is_wanted(smiles) and not (is_large and sum(_n_heavy(other) > LARGE for other in share) == n_large):
            share.append(smiles)
    return share


def _with_one(smiles: str, substituents: str) -> set[str]:
    """Replace one hydrogen by each substituent, at each atom that carries hydrogen."""
    molecule = Chem.MolFromSmiles(smiles)
    ranks = Chem.CanonicalRankAtoms(molecule, breakTies=False)
    sites = {rank: atom for rank, atom in zip(ranks, molecule.GetAtoms(), strict=True) if atom.GetTotalNumHs()}
    found: set[str] = set()
    for atom, substituent in itertools.product(sites.values(), substituents.split()):
        group = Chem.MolFromSmiles(substituent)
        if molecule.GetNumAtoms() + group.GetNumAtoms() > MAX_HEAVY_ATOMS:
            continue
        joined = Chem.RWMol(Chem.CombineMols(molecule, group))
        site = joined.GetAtomWithIdx(atom.GetIdx())
        joined.AddBond(atom.GetIdx(), molecule.GetNumAtoms(), Chem.BondType.SINGLE)
        if site.GetNumExplicitHs():  # [nH]
            site.SetNumExplicitHs(site.GetNumExplicitHs() - 1)
        if Chem.SanitizeMol(joined, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
            found.add(Chem.CanonSmiles(Chem.MolToSmiles(joined)))
    return found


def is_wanted(smiles: str) -> bool:
    """Return whether the molecule has none of the unwanted groups."""
    molecule = Chem.MolFromSmiles(smiles)
    return not any(molecule.HasSubstructMatch(pattern) for pattern in UNWANTED.values())


def _n_heavy(smiles: str) -> int:
    return Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()


def _hash(smiles: str) -> str:
    return hashlib.sha256(smiles.encode()).hexdigest()


if __name__ == "__main__":
    main()
