"""ScanNet: .sens files, exported folders, prepared folders."""
