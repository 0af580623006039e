//! Every message comes back as it was, however the bytes are cut; anything else is refused
//! without a panic and without believing a length.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use vsock_proto::{
    CHUNK, Connect, Decoder, Entry, EntryKind, Exec, ExecPart, Exit, Failure, GuestBody,
    GuestMessage, GuestState, HostBody, HostMessage, LinkSecret, Outcome, Owner, PtySize, Read,
    Ready, RequestId, Special, Stream, StreamTotal, Timeout, User, Write, encode,
};

fn bytes() -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..64).prop_map(ByteBuf::from)
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn pty() -> impl Strategy<Value = PtySize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| PtySize { rows, columns })
}

fn owner() -> impl Strategy<Value = Owner> {
    any::<(u32, u32)>().prop_map(|(uid, gid)| Owner { uid, gid })
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![
        ".{0,8}".prop_map(User::Name),
        any::<(u32, u32)>().prop_map(|(uid, gid)| User::Ids { uid, gid }),
        (".{0,8}", ".{0,8}").prop_map(|(user, group)| User::InGroup { user, group }),
    ]
}

fn exec() -> impl Strategy<Value = Exec> {
    let timeout =
        any::<u32>().prop_map(|ms| Timeout::new(std::time::Duration::from_millis(ms.into())));
    (
        vec(bytes(), 0..5),
        vec((bytes(), bytes()), 0..5),
        option::of(bytes()),
        option::of(user()),
        any::<bool>(),
        option::of(pty()),
        option::of(timeout),
        any::<(Option<u64>, Option<u64>, bool)>(),
    )
        .prop_map(
            |(argv, env, cwd, user, stdin, pty, timeout, (stdout_cap, stderr_cap, is_partial))| {
                Exec {
                    argv,
                    env,
                    cwd,
                    user,
                    stdin,
                    pty,
                    timeout,
                    is_partial,
                    stdout_cap,
                    stderr_cap,
                    follow_descendants: !is_partial,
                }
            },
        )
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        any::<u64>().prop_map(|size| EntryKind::File { size }),
        Just(EntryKind::Directory),
        bytes().prop_map(|target| EntryKind::Symlink { target }),
        bytes().prop_map(|target| EntryKind::HardLink { target }),
        any::<u64>().prop_map(|length| EntryKind::Hole { length }),
        Just(EntryKind::Special(Special::Fifo)),
    ];
    (bytes(), kind, any::<u32>(), option::of(owner()), any::<Option<i64>>())
        .prop_map(|(path, kind, mode, owner, modified)| Entry { path, kind, mode, owner, modified })
}

fn state() -> impl Strategy<Value = GuestState> {
    (
        any::<Option<u64>>(),
        bytes(),
        option::of(".{0,8}"),
        option::of(".{0,8}"),
        any::<Option<[u8; 16]>>(),
        option::of(".{0,8}"),
        vec(".{0,8}", 0..3),
    )
        .prop_map(
            |(
                clock_unix_ns,
                entropy,
                hostname,
                timezone,
                machine_id,
                authority,
                host_authorities,
            )| {
                GuestState {
                    clock_unix_ns,
                    entropy,
                    hostname,
                    timezone,
                    machine_id,
                    authority,
                    host_authorities,
                }
            },
        )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<u8>().prop_map(|code| Outcome::Exited { code }),
        any::<(u8, bool)>()
            .prop_map(|(signal, core_dumped)| Outcome::Signalled { signal, core_dumped }),
        Just(Outcome::TimedOut),
        Just(Outcome::Cancelled),
        (any::<bool>(), ".{0,20}")
            .prop_map(|(is_missing, message)| Outcome::FailedToStart { is_missing, message }),
    ]
}

fn exit() -> impl Strategy<Value = Exit> {
    (outcome(), any::<[u64; 6]>()).prop_map(|(outcome, n)| Exit {
        outcome,
        stdout: StreamTotal { sent: n[0], dropped: n[1] },
        stderr: StreamTotal { sent: n[2], dropped: n[3] },
        duration_us: n[4],
        oom_kills: n[5],
    })
}

fn host_body() -> impl Strategy<Value = HostBody<'static>> {
    prop_oneof![
        option::of(any::<[u8; 32]>()).prop_map(|secret| HostBody::Welcome(secret.map(LinkSecret))),
        ".{0,20}".prop_map(HostBody::Reject),
        Just(HostBody::Ping),
        any::<u16>().prop_map(|port| HostBody::Connect(Connect { port })),
        vec(any::<u16>(), 0..4)
            .prop_map(|ports| HostBody::WatchPorts(vsock_proto::WatchPorts { ports })),
        (vec(bytes(), 0..4), vec((bytes(), bytes()), 0..4), any::<bool>())
            .prop_map(|(argv, env, is_last)| HostBody::ExecPart(ExecPart { argv, env, is_last })),
        exec().prop_map(HostBody::Exec),
        (bytes(), bytes(), any::<bool>(), option::of(owner()), any::<bool>()).prop_map(
            |(target, name, make_parents, owner, keeps_existing)| HostBody::Write(Write {
                target,
                name,
                make_parents,
                owner,
                keeps_existing,
            })
        ),
        bytes().prop_map(|path| HostBody::Read(Read { path })),
        state().prop_map(HostBody::SetState),
        Just(HostBody::Quiesce),
        Just(HostBody::Shutdown),
        prop_oneof![Just(&b""[..]), Just(&[0xff; 1000][..])].prop_map(HostBody::Data),
        entry().prop_map(HostBody::Entry),
        Just(HostBody::End),
        (stream(), any::<u64>()).prop_map(|(stream, bytes)| HostBody::Credit(stream, bytes)),
        pty().prop_map(HostBody::Resize),
        any::<u8>().prop_map(HostBody::Signal),
        Just(HostBody::Cancel),
    ]
}

fn guest_body() -> impl Strategy<Value = GuestBody<'static>> {
    prop_oneof![
        (".{0,20}", any::<u64>())
            .prop_map(|(kernel, uptime_us)| GuestBody::Ready(Ready { kernel, uptime_us })),
        any::<u32>().prop_map(GuestBody::Started),
        (stream(), prop_oneof![Just(&b""[..]), Just(&[0; 1000][..])])
            .prop_map(|(stream, data)| GuestBody::Data(stream, data)),
        entry().prop_map(GuestBody::Entry),
        any::<u64>().prop_map(GuestBody::Credit),
        exit().prop_map(GuestBody::Exit),
        exit().prop_map(GuestBody::Ended),
        Just(GuestBody::Done),
        (any::<i32>(), ".{0,20}")
            .prop_map(|(errno, message)| GuestBody::Failed(Failure { errno, message })),
    ]
}

proptest! {
    #[test]
    fn host_messages_survive_a_round_trip(
        messages in vec((any::<u64>(), host_body()), 1..8),
        cut in 1usize..200,
    ) {
        let mut wire = Vec::new();
        for (id, body) in &messages {
            encode(&HostMessage { id: RequestId(*id), body: body.clone() }, &mut wire).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut seen = 0;
        for piece in wire.chunks(cut) {
            decoder.push(piece);
            while let Some(message) = decoder.next::<HostMessage>().unwrap() {
                prop_assert_eq!((message.id.0, &message.body), (messages[seen].0, &messages[seen].1));
                seen += 1;
            }
        }
        prop_assert_eq!(seen, messages.len());
    }

    #[test]
    fn guest_messages_survive_a_round_trip(
        messages in vec((any::<u64>(), guest_body()), 1..8),
        cut in 1usize..200,
    ) {
        let mut wire = Vec::new();
        for (id, body) in &messages {
            encode(&GuestMessage { id: RequestId(*id), body: body.clone() }, &mut wire).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut seen = 0;
        for piece in wire.chunks(cut) {
            decoder.push(piece);
            while let Some(message) = decoder.next::<GuestMessage>().unwrap() {
                prop_assert_eq!((message.id.0, &message.body), (messages[seen].0, &messages[seen].1));
                seen += 1;
            }
        }
        prop_assert_eq!(seen, messages.len());
    }

    #[test]
    fn garbage_is_refused_without_a_panic(garbage in vec(any::<u8>(), 0..4096)) {
        let mut decoder = Decoder::new();
        decoder.push(&garbage);
        while let Ok(Some(_)) = decoder.next::<HostMessage>() {}
        let mut decoder = Decoder::new();
        decoder.push(&garbage);
        while let Ok(Some(_)) = decoder.next::<GuestMessage>() {}
    }

    #[test]
    fn a_damaged_message_is_refused_or_another_message(
        body in host_body(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut wire = Vec::new();
        encode(&HostMessage { id: RequestId(1), body }, &mut wire).unwrap();
        let at = 4 + at.index(wire.len() - 4);
        wire[at] = byte;
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        let _ = decoder.next::<HostMessage>();
    }
}

#[test]
fn a_chunk_of_data_fits_into_a_frame() {
    let mut wire = Vec::new();
    let body = GuestBody::Data(Stream::Stderr, &[1; CHUNK]);
    encode(&GuestMessage { id: RequestId(u64::MAX), body }, &mut wire).unwrap();
    assert!(wire.len() < CHUNK + 32);
}
