"""Stories with questions: their answers against a plain reader of the sentences, files, and batches."""
