"""The eight steps of learning once; hyperparameter search; where runs execute."""
