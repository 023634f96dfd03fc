"""Taking over an original's data (`flask --app wsgi import-original`): reading it, cleaning it, writing it.

`dump.py` reads what mysqldump wrote and `models/store/original.py` the original's Redis; both go into a scratch file, are
cleaned there rule by rule, so that the whole report stands before anything is written, and only then become rows of ours.
"""
