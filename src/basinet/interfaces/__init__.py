"""basinet inside other programs: ASE, scikit-learn."""
