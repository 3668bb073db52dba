"""Strange input, made by atheris from recorded ones: readers give a value or their error, nothing else."""
