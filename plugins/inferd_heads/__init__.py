"""Classifiers of texts, trained and served with numpy alone: TF-IDF of hashed words, and a logistic head."""
