"""Files that lie elsewhere: on web servers, on the hub, in buckets.

    address     URLs taken apart; what of them may be shown
    store       what a place must be able to do, and how what goes wrong there is told
    places      which store a URL is in: web (HTTP), repository (the hub), buckets (obstore)
    patience    trying again, and going on in the middle
    ahead       reading ahead of a run, in bounded memory
    bytes       an object as :class:`transcode.io.bytes.Bytes`
    folder      a prefix as :class:`transcode.io.folder.Folder`

Modules of a kind of place are loaded where a URL asks for it.
"""
