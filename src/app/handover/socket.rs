//! A connection between two processes of a gateway: whole messages, in order, and descriptors along
//! with them.
//!
//! A message that was not read is still there for whoever gets the descriptor: connections can be
//! passed on while they are used.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::net::{UnixDatagram, UnixListener};

/// The name in the store, which only its owner can enter.
const NAME: &str = "handover.sock";
/// A record of a charge is at most 64 KiB.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors with one message, at most: as many as Linux passes.
pub const FDS_MAX: usize = 253;

/// One end. For the runtime it is a socket as any other, so that the type does not matter which it lends
/// for that: what is sent and received goes by way of the descriptor.
pub struct Socket(UnixDatagram);

/// Where successors call.
pub struct Door(UnixListener);

/// What came, and what came along.
pub type Parcel = (Vec<u8>, Vec<OwnedFd>);

/// Opens the door in the store `directory`, in the place of one that was there. To be called by who has the
/// lock of the store.
pub fn open_door(directory: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    at(directory, |address, path| {
        match std::fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
        rustix::net::bind(&socket, address)?;
        Ok(rustix::net::listen(&socket, 8)?)
    })?;
    Ok(socket)
}

impl Door {
    /// One of this runtime, that was opened. Who called since then waits.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Door(UnixListener::from_std(fd.into())?))
    }

    /// Waits for who calls.
    pub async fn called(&self) -> io::Result<Socket> {
        let (called, _) = self.0.accept().await?;
        Socket::new(called.into_std()?.into())
    }
}

impl Socket {
    /// A connection of this runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Socket(UnixDatagram::from_std(fd.into())?))
    }

    /// Calls at the door in the store `directory`.
    pub fn call(directory: &Path) -> io::Result<Self> {
        let socket = socket()?;
        at(directory, |address, _| Ok(rustix::net::connect(&socket, address)?))?;
        Self::new(socket)
    }

    /// The process at the other end.
    pub fn process(&self) -> io::Result<u32> {
        let pid = rustix::net::sockopt::socket_peercred(&self.0)?.pid;
        Ok(pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// To be passed on, or taken to another runtime.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(self.0.into_std()?.into())
    }

    /// Sends a message, and descriptors along with it.
    pub async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(message.len() <= MESSAGE_BYTES_MAX && fds.len() <= FDS_MAX, "as every sender sees to");
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut along = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                assert!(along.push(SendAncillaryMessage::ScmRights(fds)), "there is space for all");
            }
            let sent =
                rustix::net::sendmsg(&self.0, &[IoSlice::new(message)], &mut along, SendFlags::NOSIGNAL)?;
            if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Receives a message; none once the other end is gone. Cancelled, it has received nothing.
    pub async fn receive(&self) -> io::Result<Option<Parcel>> {
        let received = self.0.async_io(Interest::READABLE, || receive(self.0.as_fd())).await;
        match received {
            Ok((message, fds)) => Ok((!message.is_empty()).then_some((message, fds))),
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(why) => Err(why),
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Parcel> {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut message)];
    let received = rustix::net::recvmsg(socket, into, &mut along, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for came in along.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = came {
            fds.extend(came);
        }
    }
    message.truncate(received.bytes);
    Ok((message, fds))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Does something with the address of the door, which has 107 bytes: of a store with a longer name it
/// goes by way of the open directory.
fn at<T>(directory: &Path, act: impl FnOnce(&SocketAddrUnix, &Path) -> io::Result<T>) -> io::Result<T> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty())?;
    let path = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join(NAME);
    let address = SocketAddrUnix::new(&path)?;
    act(&address, &path)
}

/// Whether nobody is behind the door, or there is none.
pub fn is_nobody(why: &io::Error) -> bool {
    let code = why.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOENT | Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[tokio::test]
    async fn messages_come_whole_with_what_goes_along_and_wait_for_the_next_owner() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a-name-that-is-much-too-long-for-an-address".repeat(4));
        std::fs::create_dir(&store).unwrap();
        assert!(is_nobody(&Socket::call(&store).err().unwrap()));
        let door = Door::new(open_door(&store).unwrap()).unwrap();
        let (caller, called) = (Socket::call(&store).unwrap(), door.called().await.unwrap());
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        caller.send(b"one", &[ours.as_fd()]).await.unwrap();
        caller.send(&vec![7; MESSAGE_BYTES_MAX], &[]).await.unwrap();
        drop(ours);
        let (message, mut fds) = called.receive().await.unwrap().unwrap();
        assert_eq!((&*message, fds.len()), (&b"one"[..], 1));
        std::fs::File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut through = String::new();
        theirs.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        let passed_on = Socket::new(called.into_fd().unwrap()).unwrap();
        drop(caller);
        assert_eq!(passed_on.receive().await.unwrap().unwrap().0, vec![7; MESSAGE_BYTES_MAX]);
        assert!(passed_on.receive().await.unwrap().is_none());
        drop(door);
        assert!(is_nobody(&Socket::call(&store).err().unwrap()));
    }
}
