"""Teacher and student: training, evaluation and export."""
