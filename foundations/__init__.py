"""Before the papers: tables, small neural models, Dyna; and a transformer that is differentiated through."""
