"""Studies: methods and seeds of one recipe, trained row by row, evaluated on the same questions and compared."""
