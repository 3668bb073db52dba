"""The illustrated page: a run of two nodes through a relay, with every byte explained.

    recorder.py --> Recording --> story.py --> page.py --> one HTML file

Only the recorder uses sockets. A Recording has the frames and the random bytes of both nodes; all else is
computed from them.
"""
